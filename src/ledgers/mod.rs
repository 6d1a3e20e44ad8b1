//! Implementations of [`Ledger`](crate::ports::Ledger), and the suite that each has to pass.

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;
