//! The tasks of a node: they end with it, and a simulation can hold all of them at once, as a machine that does not get
//! its processor.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::AbortHandle;

/// All tasks of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    running: Vec<AbortHandle>,
    held: Option<Vec<Waker>>,
    ended: bool,
}

impl Tasks {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `future` until it is done or the node ends.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let task = Task {
            tasks: self.clone(),
            future: Box::pin(future),
        };
        let mut state = self.state();
        if !state.ended {
            state.running.retain(|task| !task.is_finished());
            state.running.push(tokio::spawn(task).abort_handle());
        }
    }

    /// Ends all of them, where they wait.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.running.drain(..).for_each(|task| task.abort());
    }

    /// Whether they have ended.
    pub(crate) fn ended(&self) -> bool {
        self.state().ended
    }

    /// None of them goes on before [`resume`](Self::resume).
    pub(crate) fn hold(&self) {
        self.state().held.get_or_insert_default();
    }

    /// They go on.
    pub(crate) fn resume(&self) {
        let held = self.state().held.take();
        held.into_iter().flatten().for_each(Waker::wake);
    }
}

struct Task {
    tasks: Tasks,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(held) = &mut self.tasks.state().held {
            held.push(context.waker().clone());
            return Poll::Pending;
        }
        self.future.as_mut().poll(context)
    }
}

/// Runs what blocks: a barrier, a recovery. Other tasks of the thread go elsewhere, where there is an elsewhere.
pub(crate) fn blocking<T>(f: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(f),
        _ => f(),
    }
}

/// Waits for a future on a thread that is no runtime's.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_does_not_go_on_and_what_ended_never_does() {
        let (tasks, count) = (Tasks::default(), Arc::new(AtomicU64::new(0)));
        let counted = count.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_millis(55)).await;
        assert_eq!(count.load(Ordering::Relaxed), 5);
        tasks.hold();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count.load(Ordering::Relaxed), 5);
        tasks.resume();
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert!(count.load(Ordering::Relaxed) > 5);
        tasks.end();
        let seen = count.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count.load(Ordering::Relaxed), seen);
    }

    #[test]
    fn a_thread_waits_for_what_another_completes() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = std::thread::spawn(move || sender.send(7));
        assert_eq!(block_on(receiver), Ok(7));
        other.join().expect("no panic").expect("somebody waits");
    }
}
