//! The fault matrix: what can go wrong, case by case, and that the promises hold. Cases that share
//! a shape are rows of a table; stores refuse whatever a signed link does not need with 400.

mod bodies;
mod disk;
mod h2;
mod http;
mod leaks;
mod load;
mod process;
mod redirects;
mod resume;
mod stage;
mod views;
