//! What the benchmarks in `benches/` measure of the private modules: as little as they need. Not an interface; it is there
//! only with the feature `bench`, which this crate's own benchmarks turn on.

pub use crate::download::bench as scheduler;
pub use crate::net::bench as codec;
pub use crate::net::dht_simulation as dht;
pub use crate::store::bench as cache;
