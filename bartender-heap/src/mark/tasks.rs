//! Where the tasks of a walk run: rayon's pool. Under Miri, which objects to
//! how rayon's queues keep their memory, tasks run in rounds of a thread each.
//!
//! Nothing else here: what a task does, `run` says.

#[cfg(not(miri))]
pub(super) use rayon::{Scope, current_num_threads, scope};

/// Runs `walk` in a pool of its own, of few threads, which leave the processors to
/// whoever else wants them.
#[cfg(not(miri))]
pub(crate) fn aside<R: Send>(walk: impl FnOnce() -> R + Send) -> R {
    let threads = std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.min(MOST))
        .thread_name(|_| "bartender-mark".into())
        .start_handler(|_| bartender_pm::give_way())
        .build();
    match pool {
        Ok(pool) => pool.install(walk),
        // Without threads of its own it takes those that are there.
        Err(_) => walk(),
    }
}

/// Threads of a walk beside the program, at most: memory has no priorities.
#[cfg(not(miri))]
const MOST: usize = 8;

/// The same on the calling thread's rounds.
#[cfg(miri)]
pub(crate) fn aside<R>(walk: impl FnOnce() -> R) -> R {
    walk()
}

#[cfg(miri)]
pub(super) use rounds::{Scope, current_num_threads, scope};

#[cfg(miri)]
mod rounds {
    use bartender_pm::sync::{Mutex, thread};

    type Task<'s> = Box<dyn FnOnce(&Scope<'s>) + Send + 's>;

    /// Collects the tasks of the next round.
    pub(crate) struct Scope<'s>(Mutex<Vec<Task<'s>>>);

    impl<'s> Scope<'s> {
        /// Runs `task` before the scope ends.
        pub(crate) fn spawn(&self, task: impl FnOnce(&Scope<'s>) + Send + 's) {
            self.0.lock().push(Box::new(task));
        }
    }

    /// Runs `first`, and then what it spawned, and so on.
    pub(crate) fn scope<'s, R>(first: impl FnOnce(&Scope<'s>) -> R) -> R {
        let scope = Scope(Mutex::new(Vec::new()));
        let result = first(&scope);
        loop {
            let round = std::mem::take(&mut *scope.0.lock());
            if round.is_empty() {
                return result;
            }
            thread::scope(|threads| {
                for task in round {
                    threads.spawn(|| task(&scope));
                }
            });
        }
    }

    /// How many tasks a round is worth.
    pub(crate) fn current_num_threads() -> usize {
        3
    }
}
