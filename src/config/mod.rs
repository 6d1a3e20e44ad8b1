//! The configuration's building blocks: units, addresses, keys, ID files and the shape of the file.

mod endpoint;
mod environment;
mod fault;
mod file;
mod ids_file;
mod raw;
mod secret;
mod units;

pub use environment::Environment;
pub use fault::{ConfigFaults, Fault};
pub use file::ReadError;
pub use secret::{KeyError, KeySource, RestKey};
pub use units::{UnitError, parse_duration};
