//! Sizes and durations as people write and read them: `"10GB"`, `"64MiB"`, `"1h30m"`.
//!
//! `kB`, `MB`, `GB`, `TB` are powers of 1000, `KiB`, `MiB`, `GiB`, `TiB` powers of 1024 (IEC 80000-13). Case does not
//! matter, so `10gb` is what its writer meant.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A text that is no size or no duration; says what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError(String);

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnitError {}

const SIZE_UNITS: [(&str, u64); 14] = [
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("B", 1),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
    ("", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || {
            UnitError(format!(
                "{text:?} is not a size; write it like \"10GB\", \"64MiB\" or \"512kB\""
            ))
        };
        let (number, unit) = split_number(text.trim()).ok_or_else(wrong)?;
        let factor = SIZE_UNITS
            .iter()
            .find_map(|(name, factor)| name.eq_ignore_ascii_case(unit).then_some(*factor))
            .ok_or_else(wrong)?;
        scale(number, u128::from(factor))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map(Size)
            .ok_or_else(|| UnitError(format!("{text:?} is too large a size")))
    }
}

/// Exact: the largest unit that divides the number, so that it reads back as the same value.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .iter()
            .take_while(|(unit, _)| *unit != "T")
            .filter(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .max_by_key(|(_, factor)| *factor)
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// Splits `"1.5GB"` into `("1.5", "GB")`; at least one digit, at most one point.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    (digits > 0 && number.len() - digits <= 1).then_some((number, unit.trim()))
}

/// `number * factor`, where the number may have decimals; rounds down. `None` when it does not fit.
fn scale(number: &str, factor: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    // More decimals than this cannot change a whole number of bytes or nanoseconds of any accepted unit.
    let decimals = decimals.get(..decimals.len().min(15))?;
    let fraction = match decimals.len() {
        0 => 0,
        len => {
            decimals.parse::<u128>().ok()?.checked_mul(factor)?
                / 10u128.checked_pow(u32::try_from(len).ok()?)?
        }
    };
    whole.checked_mul(factor)?.checked_add(fraction)
}

/// A length of time, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_duration(text).map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0.as_secs())
    }
}

/// A number of bytes a second, or no limit (`None`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("unlimited") {
            return Ok(Self(None));
        }
        let Size(bytes) = text
            .strip_suffix("/s")
            .unwrap_or(text)
            .parse()
            .map_err(|_| {
                UnitError(format!(
                    "{text:?} is not a rate; write \"unlimited\" or bytes a second like \"10MB\""
                ))
            })?;
        if bytes == 0 {
            return Err(UnitError(
                "a rate of 0 would stop everything; write \"unlimited\" or e.g. \"1kB\"".into(),
            ));
        }
        Ok(Self(Some(bytes)))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("unlimited"),
            Some(bytes) => Size(bytes).fmt(f),
        }
    }
}

macro_rules! serde_as_text {
    ($($kind:ty: $expecting:literal),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct AsText;
                impl Visitor<'_> for AsText {
                    type Value = $kind;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$kind, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$kind, E> {
                        number.to_string().parse().map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$kind, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(AsText)
            }
        }
    )*};
}

serde_as_text!(Size: "a size like \"10GB\"", Rate: "\"unlimited\" or a rate like \"10MB\"");

/// Parses `"30s"`, `"500ms"`, `"1h30m"`, `"1d"`; a bare number counts seconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || {
        UnitError(format!(
            "{text:?} is not a duration; write it like \"30s\", \"5m\" or \"1h30m\""
        ))
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or_else(wrong)?;
        let end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        let nanos: u128 = match unit.to_ascii_lowercase().as_str() {
            "ms" => 1_000_000,
            "" | "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(wrong()),
        };
        let nanos = scale(number, nanos)
            .and_then(|nanos| u64::try_from(nanos).ok())
            .ok_or_else(wrong)?;
        total = total
            .checked_add(Duration::from_nanos(nanos))
            .ok_or_else(wrong)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// `1234567` as `"1.2 MB"`: three figures at most, powers of 1000.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if value < 9.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// `"0.4s"`, `"12s"`, `"2m03s"`, `"3h12m"`, `"2d4h"`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse().ok().map(|Size(bytes)| bytes)
    }

    #[test]
    fn sizes_read_as_written() {
        assert_eq!(size("10GB"), Some(10_000_000_000));
        assert_eq!(size("10 gb"), Some(10_000_000_000));
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("1.5k"), Some(1500));
        assert_eq!(size("0.1MiB"), Some(104_857));
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("18446744073709551615B"), Some(u64::MAX));
        for bad in [
            "",
            "GB",
            "-1GB",
            "1..5GB",
            "1.2.3",
            "10 XB",
            "1e9",
            "99999999999TB",
            ".",
            "1GB2",
            "٣GB",
        ] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_shown_size_reads_back_exactly() {
        for bytes in [
            0,
            1,
            999,
            1000,
            1024,
            64_000_000,
            64 << 20,
            50_000_000_000,
            1 << 40,
            u64::MAX,
        ] {
            assert_eq!(size(&Size(bytes).to_string()), Some(bytes));
        }
        assert_eq!(Size(50_000_000_000).to_string(), "50GB");
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
    }

    #[test]
    fn rates() {
        assert_eq!("unlimited".parse(), Ok(Rate(None)));
        assert_eq!("10MB/s".parse(), Ok(Rate(Some(10_000_000))));
        assert!("0".parse::<Rate>().is_err());
        assert!("fast".parse::<Rate>().is_err());
    }

    #[test]
    fn durations() {
        let seconds = |text| parse_duration(text).ok().map(|d| d.as_secs_f64());
        assert_eq!(seconds("30s"), Some(30.0));
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        assert_eq!(seconds("1.5s"), Some(1.5));
        assert_eq!(seconds("7"), Some(7.0));
        for bad in ["", "s", "1y", "-1s", "1h x", "999999999999999999999d"] {
            assert_eq!(seconds(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_people_read() {
        assert_eq!(human_size(0), "0 B");
        assert_eq!(human_size(999), "999 B");
        assert_eq!(human_size(1000), "1.0 kB");
        assert_eq!(human_size(999_960), "1.0 MB");
        assert_eq!(human_size(12_345_678), "12 MB");
        assert_eq!(human_size(u64::MAX), "18 EB");
        assert_eq!(human_duration(Duration::from_millis(420)), "0.4s");
        assert_eq!(human_duration(Duration::from_secs(123)), "2m03s");
        assert_eq!(human_duration(Duration::from_secs(90_000)), "1d1h");
    }
}
