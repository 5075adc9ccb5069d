//! Which `node.toml` counts, and where data goes when there is none.

use std::env;
use std::path::{Path, PathBuf};

use crate::exit::Failure;

/// The file given by `--config` or its environment twin; else `./node.toml`; else the one in the user's config folder.
///
/// A file that was named must exist; the others may be absent.
pub fn find(explicit: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = explicit {
        return if path.is_file() {
            Ok(Some(path.to_owned()))
        } else {
            Err(Failure::new(
                "config",
                format!("there is no configuration file {}", path.display()),
            ))
        };
    }
    let beside = PathBuf::from("node.toml");
    let of_user =
        base_dir("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("p2p-node").join("node.toml"));
    Ok([Some(beside), of_user]
        .into_iter()
        .flatten()
        .find(|path| path.is_file()))
}

/// `$XDG_DATA_HOME/p2p-node`, by default `~/.local/share/p2p-node`.
pub fn default_data_dir() -> Result<PathBuf, Failure> {
    base_dir("XDG_DATA_HOME", ".local/share")
        .map(|dir| dir.join("p2p-node"))
        .ok_or_else(|| {
            Failure::new(
                "config",
                "there is no home folder to keep data in; write a node.toml with data_dir",
            )
        })
}

/// A folder of the XDG Base Directory Specification, which asks to ignore relative values.
fn base_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    let set = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute());
    set.or_else(|| {
        env::home_dir()
            .filter(|home| home.is_absolute())
            .map(|home| home.join(below_home))
    })
}
