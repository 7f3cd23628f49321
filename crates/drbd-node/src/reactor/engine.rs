//! The engine as the reactor's core.

use drbd_engine::{Effect, Engine, EngineConfig, Event, Instant, ResourceStatus};

use super::Core;
use crate::node::CoreConfig;

impl Core for Engine {
    fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        Engine::handle(self, now, event, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        Engine::next_deadline(self)
    }

    fn status(&self) -> ResourceStatus {
        *Engine::status(self)
    }
}

/// Makes the engine of a resource.
pub fn make_engine(config: CoreConfig) -> Box<dyn Core> {
    let CoreConfig {
        name,
        node_id,
        options,
        seed,
        helper,
    } = config;
    Box::new(Engine::new(EngineConfig {
        name,
        node_id,
        options,
        seed,
        helper,
    }))
}
