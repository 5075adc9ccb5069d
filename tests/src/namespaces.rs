//! Network namespaces joined by virtual cables: a local network of two machines with nothing else on it, or two homes behind
//! routers and a public machine between them.
//!
//! Each is held by a process that waits for its standard input to end, so both are gone with the test, however it ends.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

/// Two machines on a network of their own.
#[derive(Debug)]
pub struct Cable {
    pub left: Machine,
    pub right: Machine,
}

/// One end of a [`Cable`].
#[derive(Debug)]
pub struct Machine {
    holder: Child,
    enter: Vec<OsString>,
    interface: &'static str,
}

impl Cable {
    /// Makes the namespaces and joins them.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn new() -> Result<Self, String> {
        let left = Machine::first("left")?;
        let right = left.another("right")?;
        left.cable("left", "10.77.0.1/24", &right, "right", "10.77.0.2/24")?;
        Ok(Self { left, right })
    }

    /// Gives the left machine a way to the rest of the world: whatever is not for its neighbour goes there, and nowhere.
    ///
    /// # Errors
    /// What the system said.
    pub fn open_way_out(&self) -> Result<(), String> {
        let other = self.right.holder.id().to_string();
        self.left.run(&[
            "link", "add", "out", "type", "veth", "peer", "name", "void", "netns", &other,
        ])?;
        // The system itself has nothing to say there.
        for (machine, end) in [(&self.left, "out"), (&self.right, "void")] {
            let quiet = format!("echo 1 > /proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            machine.execute(&["sh", "-c", &quiet])?;
            machine.run(&["link", "set", end, "arp", "off", "up"])?;
        }
        self.left.run(&["route", "add", "default", "dev", "out"])
    }

    /// Packets that went that way so far.
    ///
    /// # Errors
    /// What the system said.
    pub fn gone_out(&self) -> Result<u64, String> {
        let table = self.left.execute(&["cat", "/proc/net/dev"])?;
        let line = table
            .lines()
            .find_map(|line| line.trim().strip_prefix("out:"));
        // Eight columns of what was received, then the packets that were sent behind their bytes.
        let sent = line.and_then(|columns| columns.split_whitespace().nth(9));
        sent.and_then(|packets| packets.parse().ok()).ok_or(table)
    }

    /// Gives both ends a second address, such as `203.0.113.1/24` and its neighbour.
    ///
    /// # Errors
    /// What the system said.
    pub fn add_addresses(&self, left: &str, right: &str) -> Result<(), String> {
        for (machine, address) in [(&self.left, left), (&self.right, right)] {
            machine.run(&["address", "add", address, "dev", machine.interface])?;
        }
        Ok(())
    }

    /// Cuts the cable, or mends it.
    ///
    /// # Errors
    /// What the system said.
    pub fn set_up(&self, up: bool) -> Result<(), String> {
        let state = if up { "up" } else { "down" };
        self.left.run(&["link", "set", self.left.interface, state])
    }
}

/// A network with its own private addresses, behind a router that translates them.
#[derive(Debug)]
pub struct Home {
    /// A computer in it.
    pub host: Machine,
    /// Kept for as long as the network is there.
    _router: Machine,
}

/// How a router translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// A port of the host is the same port of the router, whoever is spoken to (RFC 4787: endpoint-independent mapping).
    EndpointIndependent,
    /// Another port for each connection.
    Symmetric,
}

/// A machine with public addresses, and two homes that reach each other through it, as far as their routers let them.
#[derive(Debug)]
pub struct Internet {
    pub public: Machine,
    pub left: Home,
    pub right: Home,
}

impl Internet {
    /// The public address of the machine in the middle, as the left and the right home have it.
    pub const PUBLIC: [&str; 2] = ["45.0.1.1", "45.0.2.1"];

    /// Makes the namespaces, the cables, and the routers' rules.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn new(left: Nat, right: Nat) -> Result<Self, String> {
        let public = Machine::first("wan")?;
        public.execute(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        let left = Home::new(&public, 1, left)?;
        let right = Home::new(&public, 2, right)?;
        Ok(Self {
            public,
            left,
            right,
        })
    }
}

impl Home {
    fn new(public: &Machine, number: u8, nat: Nat) -> Result<Self, String> {
        let router = public.another("wan")?;
        let host = public.another("eth0")?;
        let end = format!("home{number}");
        let (outer, inner) = (format!("45.0.{number}"), format!("192.168.{number}"));
        public.cable(
            &end,
            &format!("{outer}.1/24"),
            &router,
            "wan",
            &format!("{outer}.2/24"),
        )?;
        router.cable(
            "lan",
            &format!("{inner}.1/24"),
            &host,
            "eth0",
            &format!("{inner}.10/24"),
        )?;
        router.run(&["route", "add", "default", "via", &format!("{outer}.1")])?;
        host.run(&["route", "add", "default", "via", &format!("{inner}.1")])?;
        router.execute(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
        let mapping = match nat {
            Nat::EndpointIndependent => "masquerade",
            Nat::Symmetric => "masquerade fully-random",
        };
        // What nobody inside has asked for is dropped without a word, as such routers do.
        let rules = format!(
            "table ip home {{
                chain out {{
                    type nat hook postrouting priority srcnat;
                    oifname wan {mapping}
                }}
                chain in {{
                    type filter hook input priority filter;
                    iifname wan ct state new drop
                }}
                chain through {{
                    type filter hook forward priority filter;
                    iifname wan ct state new drop
                }}
            }}"
        );
        router.execute(&["nft", &rules])?;
        Ok(Self {
            host,
            _router: router,
        })
    }
}

impl Machine {
    /// A machine on its own.
    fn first(interface: &'static str) -> Result<Self, String> {
        let first = Self::new(&["unshare", "--net"], interface, false);
        let first = first
            .or_else(|_| Self::new(&["unshare", "--map-root-user", "--net"], interface, true))?;
        first.run(&["link", "set", "lo", "up"])?;
        Ok(first)
    }

    /// Another one, of the same owner.
    fn another(&self, interface: &'static str) -> Result<Self, String> {
        let inner: Vec<OsString> = ["unshare", "--net"].map(OsString::from).into();
        let nested: Vec<OsString> = self.enter.iter().cloned().chain(inner).collect();
        let in_user_namespace = self.enter.contains(&"--user".into());
        let machine = Self::new(&nested, interface, in_user_namespace)?;
        machine.run(&["link", "set", "lo", "up"])?;
        Ok(machine)
    }

    /// Lays a cable to another machine.
    fn cable(
        &self,
        end: &str,
        address: &str,
        other: &Self,
        other_end: &str,
        other_address: &str,
    ) -> Result<(), String> {
        let pid = other.holder.id().to_string();
        self.run(&[
            "link", "add", end, "type", "veth", "peer", "name", other_end, "netns", &pid,
        ])?;
        for (machine, end, address) in [(self, end, address), (other, other_end, other_address)] {
            machine.run(&["address", "add", address, "dev", end])?;
            machine.run(&["link", "set", end, "up"])?;
        }
        Ok(())
    }

    fn new(
        unshare: &[impl AsRef<std::ffi::OsStr>],
        interface: &'static str,
        in_user_namespace: bool,
    ) -> Result<Self, String> {
        let (program, arguments) = unshare.split_first().ok_or("no command")?;
        let mut holder = Command::new(program)
            .args(arguments)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.as_ref().display()))?;
        // An echo shows that the namespace is there.
        let echoed = holder
            .stdin
            .as_mut()
            .map(|stdin| stdin.write_all(b"here\n"));
        let mut line = String::new();
        let read = holder
            .stdout
            .as_mut()
            .map(|stdout| BufReader::new(stdout).read_line(&mut line));
        if line != "here\n" {
            let output = holder
                .wait_with_output()
                .map_err(|error| error.to_string())?;
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("no namespace: {why} {echoed:?} {read:?}"));
        }
        let mut enter: Vec<OsString> = ["nsenter", "--net", "--target"].map(OsString::from).into();
        enter.push(holder.id().to_string().into());
        if in_user_namespace {
            enter.extend(["--user", "--preserve-credentials"].map(OsString::from));
        }
        Ok(Self {
            holder,
            enter,
            interface,
        })
    }

    /// The command that runs others on this machine.
    pub fn enter(&self) -> &[OsString] {
        &self.enter
    }

    fn run(&self, ip: &[&str]) -> Result<(), String> {
        self.execute(&[&["ip"], ip].concat()).map(|_| ())
    }

    /// Runs a command on this machine; what it wrote.
    fn execute(&self, command: &[&str]) -> Result<String, String> {
        let (program, arguments) = self.enter.split_first().ok_or("no command")?;
        let output = Command::new(program)
            .args(arguments)
            .args(command)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}: {}", command.join(" "), why.trim()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A holder that has ended already is as good.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
