//! What a cluster must never do. Every checker is on its own and knows nothing of the engine's inner life;
//! the names are those of the invariants of the data path document, section 25.

pub mod coverage;
pub mod flow;
pub mod history;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A broken promise, when and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Virtual time in nanoseconds.
    pub at: crate::clock::Time,
    /// The node at fault, if it is one.
    pub node: Option<usize>,
    /// What was broken.
    pub violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let node = self.node.map_or(String::new(), |n| {
            format!(" node {}", crate::cluster::NAMES[n % 8])
        });
        write!(f, "{:.6} s{node}: {}", self.at as f64 / 1e9, self.violation)
    }
}
