//! One binary for all integration tests: the real program against the simulator, and the source against its map.

mod bandwidth;
mod bodies;
mod configuration;
mod credentials;
mod demo;
mod deployment;
mod disk;
mod happy;
mod holds;
mod interruptions;
mod journald;
mod lifecycle;
mod liveness;
mod modes;
mod redirects;
mod reload;
mod service;
mod shutdown;
mod simulator;
mod slow_disk;
mod support;
mod tidy;
mod tls;
mod transfer;
mod views;
mod web;
