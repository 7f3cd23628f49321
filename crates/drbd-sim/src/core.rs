//! What the simulator drives: the engine, or anything else that keeps its contract.

use drbd_engine::effect::Effect;
use drbd_engine::event::Event;
use drbd_engine::rows::Rows;
use drbd_engine::status::ResourceStatus;
use drbd_engine::time::Instant;
use drbd_engine::{Engine, EngineConfig};

/// One resource of one node.
pub trait Core {
    /// Handles one event; what has to be done is appended to `effects`.
    fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>);
    /// When it wants an `Event::Tick` at the latest.
    fn next_deadline(&self) -> Option<Instant>;
    /// What can be seen of it.
    fn status(&self) -> Box<ResourceStatus>;
    /// The rows of the decision tables that it went through.
    fn rows(&self) -> Rows {
        Rows::default()
    }
}

/// Makes a core for a node that starts.
pub type Factory = fn(EngineConfig) -> Box<dyn Core>;

impl Core for Engine {
    fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        Engine::handle(self, now, event, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        Engine::next_deadline(self)
    }

    fn status(&self) -> Box<ResourceStatus> {
        Engine::status(self)
    }

    fn rows(&self) -> Rows {
        Engine::rows(self)
    }
}

/// The real engine.
pub fn engine(config: EngineConfig) -> Box<dyn Core> {
    Box::new(Engine::new(config))
}
