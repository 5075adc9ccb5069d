//! Settings: which `node.toml` counts, what it says, and what the library is told.
//!
//! [`mod@file`] is the TOML as written, [`diagnose`] turns a mistake in it into a message that names the key and the line,
//! and [`Settings`] is the checked result with every path made absolute.

pub mod diagnose;
pub mod file;
mod locate;
pub mod policy;

use std::path::{Path, PathBuf};

use p2p_core::{Audience, Config, NetworkKey, TrustPolicy};

use crate::control::endpoint::Endpoint;
use crate::exit::Failure;
use file::{ConfigFile, TrustPolicyName};

pub use locate::find as locate;

/// One share named in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredShare {
    pub path: PathBuf,
    pub name: Option<String>,
    pub unlisted: bool,
    pub watch: bool,
    pub keep: bool,
    pub audience: Audience,
}

/// Checked settings, ready to start a node with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file they come from; `None`: defaults, as no file was found.
    pub source: Option<PathBuf>,
    pub core: Config,
    pub shares: Vec<ConfiguredShare>,
    pub api: Endpoint,
    /// Said once by whoever uses the settings: legal, but perhaps not what was meant.
    pub warnings: Vec<String>,
    /// The effective settings in the form of the file.
    pub written: ConfigFile,
}

impl Settings {
    /// Finds, reads and checks the settings. `explicit` is `--config`, `api` is `--api`.
    pub fn load(explicit: Option<&Path>, api: Option<&Endpoint>) -> Result<Self, Failure> {
        let mut settings = match locate(explicit)? {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    config_error(format!("cannot read {}: {error}", path.display()))
                })?;
                Self::parse(&text, &path)?
            }
            None => Self::resolve(ConfigFile::without_file(locate::default_data_dir()?), None)?,
        };
        if let Some(api) = api {
            settings.api = api.clone();
        }
        Ok(settings)
    }

    /// The settings in `text`, which was read from `path`; relative paths count from the folder of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let file: ConfigFile = toml::from_str(text).map_err(|error| {
            config_error(diagnose::explain(&error, text, &path.display().to_string()))
        })?;
        Self::resolve(file, Some(path.to_owned()))
    }

    fn resolve(mut written: ConfigFile, source: Option<PathBuf>) -> Result<Self, Failure> {
        let base = match source.as_deref().and_then(Path::parent) {
            Some(dir) if !dir.as_os_str().is_empty() => absolute(dir)?,
            _ => absolute(Path::new("."))?,
        };
        written.make_absolute(&base);
        let place = source
            .as_ref()
            .map_or_else(|| "settings".into(), |path| path.display().to_string());
        let api = written.api.listen.clone();
        api.check()
            .map_err(|problem| config_error(format!("{place}: api.listen: {problem}")))?;

        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        let trust = trust_policy(&written, &mut problems, &mut warnings);
        let mut core = written.to_core(trust);
        core.network.key = network_key(&written, &mut problems);
        problems.extend(core.problems());
        if !problems.is_empty() {
            return Err(config_error(format!("{place}: {}", problems.join("\n  "))));
        }
        let shares = written.all_shares();
        Ok(Self {
            source,
            core,
            shares,
            api,
            warnings,
            written,
        })
    }

    /// Where the bearer token of the API is kept.
    pub fn token_file(&self) -> PathBuf {
        self.core.data_dir.join("api.token")
    }

    /// Where a daemon notes the address it listens on, as `[api] listen` may leave the port open.
    pub fn api_address_file(&self) -> PathBuf {
        self.core.data_dir.join("api.address")
    }
}

fn network_key(file: &ConfigFile, problems: &mut Vec<String>) -> Option<NetworkKey> {
    let loaded = NetworkKey::load(file.network.key.as_deref()?);
    loaded
        .map_err(|error| problems.push(format!("network.key: {error}")))
        .ok()
}

fn trust_policy(
    file: &ConfigFile,
    problems: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> TrustPolicy {
    let publishers = &file.trust.publishers;
    match file.trust.policy {
        TrustPolicyName::Trusted if publishers.is_empty() => {
            problems.push("trust.publishers: policy \"trusted\" needs at least one publisher, or it refuses everything".into());
            TrustPolicy::Trusted(Default::default())
        }
        TrustPolicyName::Trusted => TrustPolicy::Trusted(publishers.iter().copied().collect()),
        policy => {
            if !publishers.is_empty() {
                warnings.push(
                    "trust.publishers has no effect unless trust.policy is \"trusted\"".into(),
                );
            }
            if policy == TrustPolicyName::Signed {
                TrustPolicy::Signed
            } else {
                TrustPolicy::Any
            }
        }
    }
}

fn config_error(message: String) -> Failure {
    Failure::new("config", message)
}

/// `path` made absolute without asking the disk.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::io(format!("cannot use the path {}", path.display()), &error))
}

#[cfg(test)]
mod tests;
