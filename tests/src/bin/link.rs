//! `p2p-link`: ports of loopback that lead to others over a link with a delay, a rate and a loss.
//!
//! ```sh
//! p2p-link --tcp 8081:8080 --udp 8081:8080 --rtt 50ms --rate 200Mbit --loss 1%
//! ```
//!
//! On Ctrl-C it prints, as one object, what passed in either direction.

use std::{error::Error, time::Duration};

use clap::Parser;
use p2p_tests::link::{Link, Passed, Quality};
use serde_json::json;

#[derive(Debug, Parser)]
#[command(name = "p2p-link", about = "A slow link between ports of loopback")]
struct Options {
    /// TCP from one port to another, LISTEN:TARGET; may be given more than once
    #[arg(long, value_parser = ports)]
    tcp: Vec<(u16, u16)>,
    /// UDP from one port to another, LISTEN:TARGET; may be given more than once
    #[arg(long, value_parser = ports)]
    udp: Vec<(u16, u16)>,
    /// From here to there and back, such as 50ms
    #[arg(long, value_parser = rtt)]
    rtt: Duration,
    /// Bits a second in each direction, such as 200Mbit
    #[arg(long, value_parser = rate)]
    rate: u64,
    /// The part of UDP packets that is lost, such as 1%
    #[arg(long, value_parser = loss, default_value = "0%")]
    loss: f64,
    /// Other packets are lost for another seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let link = Link::new(Quality {
        rtt: options.rtt,
        rate: options.rate,
        loss: options.loss,
        seed: options.seed,
    });
    for (listen, target) in options.tcp {
        link.tcp(listen, target)?;
    }
    for (listen, target) in options.udp {
        link.udp(listen, target)?;
    }
    link.run()?;
    let (up, down) = link.passed();
    println!("{}", json!({ "up": object(up), "down": object(down) }));
    Ok(())
}

fn object(passed: Passed) -> serde_json::Value {
    json!({ "bytes": passed.bytes, "lost": passed.lost, "dropped": passed.dropped })
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let pair = text.split_once(':').ok_or("LISTEN:TARGET")?;
    let port = |text: &str| text.parse().map_err(|_| format!("{text} is no port"));
    Ok((port(pair.0)?, port(pair.1)?))
}

fn rtt(text: &str) -> Result<Duration, String> {
    let number = number(text, "ms")?;
    Duration::try_from_secs_f64(number / 1e3).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<u64, String> {
    let bits = number(text, "Mbit")? * 1e6;
    if bits < 1.0 {
        return Err("a link of no rate".into());
    }
    Ok(bits as u64)
}

fn loss(text: &str) -> Result<f64, String> {
    let part = number(text, "%")? / 100.0;
    if !(0.0..=1.0).contains(&part) {
        return Err("0% to 100%".into());
    }
    Ok(part)
}

fn number(text: &str, unit: &str) -> Result<f64, String> {
    let digits = text.strip_suffix(unit);
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| format!("a number and {unit}"))
}
