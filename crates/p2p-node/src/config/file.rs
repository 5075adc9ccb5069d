//! `node.toml` as written: every key there is, with the library's own defaults for what is left out.

use std::path::{Path, PathBuf};

use p2p_core::{Address, Audience, Config, DhtMode, PublisherKey, RelayMode, TrustPolicy};
use serde::{Deserialize, Serialize};

use super::ConfiguredShare;
pub use super::policy::SharePolicy;
use crate::control::endpoint::Endpoint;
use crate::control::text;
use crate::units::{Rate, Size, Span};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    pub data_dir: PathBuf,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<PathBuf>,
    pub network: Network,
    pub limits: Limits,
    pub storage: Storage,
    pub trust: Trust,
    pub api: Api,
    /// Last, as TOML wants arrays of tables after plain values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub share: Vec<ShareTable>,
}

/// One `[[share]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareTable {
    pub path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub unlisted: bool,
    #[serde(default)]
    pub watch: bool,
    #[serde(default)]
    pub keep: bool,
    #[serde(default)]
    pub policy: SharePolicy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    #[serde(with = "text::list")]
    pub listen: Vec<Address>,
    #[serde(with = "text::list")]
    pub bootstrap: Vec<Address>,
    pub mdns: bool,
    pub dht: Dht,
    pub network: String,
    #[serde(with = "text::list")]
    pub external: Vec<Address>,
    pub upnp: bool,
    pub relay: Relay,
    pub relay_data: bool,
    pub relay_places: u32,
    pub relay_circuits: u32,
    pub relay_bytes: Size,
    #[serde(with = "text::one")]
    pub relay_time: Span,
    pub lan_only: bool,
    /// The file with the key of a private network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dht {
    Auto,
    Server,
    Client,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relay {
    Off,
    Client,
    Server,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub upload: Rate,
    pub download: Rate,
    pub lan_exempt: bool,
    pub max_peers: u32,
    pub upload_slots: u32,
    pub memory: Size,
    pub cache: Size,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    pub quota: Size,
    pub min_free: Size,
    pub evict: Evict,
}

/// Which complete downloads make room for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Evict {
    Off,
    Store,
    Downloads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrustPolicyName {
    Any,
    Signed,
    Trusted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    pub policy: TrustPolicyName,
    #[serde(with = "text::list")]
    pub publishers: Vec<PublisherKey>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    #[serde(with = "text::one")]
    pub listen: Endpoint,
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            data_dir: Config::default().data_dir,
            shares: Vec::new(),
            network: Network::default(),
            limits: Limits::default(),
            storage: Storage::default(),
            trust: Trust::default(),
            api: Api::default(),
            share: Vec::new(),
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        let core = p2p_core::NetworkConfig::default();
        Self {
            listen: core.listen,
            bootstrap: core.bootstrap,
            mdns: core.mdns,
            dht: Dht::Auto,
            network: core.network,
            external: core.external,
            upnp: core.upnp,
            relay: Relay::Client,
            relay_data: core.relay_data,
            relay_places: core.relay_limits.places,
            relay_circuits: core.relay_limits.circuits,
            relay_bytes: Size(core.relay_limits.circuit_bytes),
            relay_time: Span(core.relay_limits.circuit_time),
            lan_only: core.lan_only,
            key: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let core = p2p_core::Limits::default();
        Self {
            upload: Rate(core.upload),
            download: Rate(core.download),
            lan_exempt: core.lan_exempt,
            max_peers: core.max_peers,
            upload_slots: core.upload_slots,
            memory: Size(core.memory),
            cache: Size(core.cache),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        let core = p2p_core::StorageConfig::default();
        Self {
            quota: Size(core.quota),
            min_free: Size(core.min_free),
            evict: Evict::Store,
        }
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            policy: TrustPolicyName::Any,
            publishers: Vec::new(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: Endpoint::default_tcp(),
        }
    }
}

impl ConfigFile {
    /// What counts when there is no file.
    pub fn without_file(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            ..Self::default()
        }
    }

    /// Makes every path count from `base`, which is absolute.
    pub fn make_absolute(&mut self, base: &Path) {
        let paths = self
            .shares
            .iter_mut()
            .chain(self.share.iter_mut().map(|share| &mut share.path));
        for path in paths
            .chain([&mut self.data_dir])
            .chain(&mut self.network.key)
        {
            *path = base.join(&*path);
        }
        if let Endpoint::Unix(path) = &mut self.api.listen {
            *path = base.join(&*path);
        }
    }

    /// `shares` and the `[[share]]` tables as one list.
    pub fn all_shares(&self) -> Vec<ConfiguredShare> {
        let plain = self.shares.iter().map(|path| ConfiguredShare {
            path: path.clone(),
            name: None,
            unlisted: false,
            watch: false,
            keep: false,
            audience: Audience::Everyone,
        });
        let tables = self.share.iter().map(|share| ConfiguredShare {
            path: share.path.clone(),
            name: share.name.clone(),
            unlisted: share.unlisted || share.policy.is_unlisted(),
            audience: share.policy.audience(),
            watch: share.watch,
            keep: share.keep,
        });
        plain.chain(tables).collect()
    }

    /// The same settings in the library's terms.
    pub fn to_core(&self, trust: TrustPolicy) -> Config {
        let mut core = Config::default().with_data_dir(&self.data_dir);
        core.network.listen = self.network.listen.clone();
        core.network.bootstrap = self.network.bootstrap.clone();
        core.network.mdns = self.network.mdns;
        core.network.dht = self.network.dht.into();
        core.network.network = self.network.network.clone();
        core.network.upnp = self.network.upnp;
        core.network.external = self.network.external.clone();
        core.network.relay = self.network.relay.into();
        core.network.relay_data = self.network.relay_data;
        let relayed = &mut core.network.relay_limits;
        relayed.places = self.network.relay_places;
        relayed.circuits = self.network.relay_circuits;
        relayed.circuit_bytes = self.network.relay_bytes.0;
        relayed.circuit_time = self.network.relay_time.0;
        core.network.lan_only = self.network.lan_only;
        core.limits.upload = self.limits.upload.0;
        core.limits.download = self.limits.download.0;
        core.limits.lan_exempt = self.limits.lan_exempt;
        core.limits.max_peers = self.limits.max_peers;
        core.limits.upload_slots = self.limits.upload_slots;
        core.limits.memory = self.limits.memory.0;
        core.limits.cache = self.limits.cache.0;
        core.storage.quota = self.storage.quota.0;
        core.storage.min_free = self.storage.min_free.0;
        core.storage.evict = self.storage.evict.into();
        core.trust = trust;
        core
    }
}

impl From<Evict> for p2p_core::Evict {
    fn from(written: Evict) -> Self {
        match written {
            Evict::Off => Self::Off,
            Evict::Store => Self::Store,
            Evict::Downloads => Self::Downloads,
        }
    }
}

impl From<Dht> for DhtMode {
    fn from(written: Dht) -> Self {
        match written {
            Dht::Auto => Self::Auto,
            Dht::Server => Self::Server,
            Dht::Client => Self::Client,
            Dht::Off => Self::Off,
        }
    }
}

impl From<Relay> for RelayMode {
    fn from(written: Relay) -> Self {
        match written {
            Relay::Off => Self::Off,
            Relay::Client => Self::Client,
            Relay::Server => Self::Server,
        }
    }
}
