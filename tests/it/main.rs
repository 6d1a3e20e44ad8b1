//! One binary for all integration tests: the real program against the simulator, and the source against its map.

mod bodies;
mod happy;
mod lifecycle;
mod simulator;
mod support;
mod tidy;
