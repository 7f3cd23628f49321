//! Cluster simulator.
fn main() {}
