//! Waiting with a deadline.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long something that should happen soon may take on a slow machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
///
/// # Errors
/// When there was none in time; `what` is what was waited for. An error of the question ends the wait.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            let seconds = limit.as_secs_f32();
            return Err(Error::new(format!(
                "{what}: did not happen within {seconds} s"
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
