//! The cluster simulator.

fn main() {
    std::process::exit(drbd_sim::cli::main());
}
