//! Failures on purpose. A test lets the n-th step of a kind fail, n = 0, 1, …, and shows that nothing is left of what
//! was begun.
//!
//! Like the switches of `mutant` it is there in tests, and with the feature `testing` in builds with debug assertions; in
//! others nothing ever fails by it.

#[cfg(any(test, all(feature = "testing", any(debug_assertions, loom))))]
mod imp {
    use std::cell::Cell;

    thread_local! {
        /// What fails, and how often it succeeds before.
        static ARMED: Cell<(&'static str, u64)> = const { Cell::new(("", 0)) };
    }

    /// Whether this step, of a kind `name`, fails.
    #[doc(hidden)]
    pub fn strikes(name: &str) -> bool {
        let (armed, left) = ARMED.get();
        if armed != name {
            return false;
        }
        let next = match left {
            0 => ("", 0),
            left => (armed, left - 1),
        };
        ARMED.set(next);
        left == 0
    }

    /// Runs `f`; the step `nth` (from 0) of a kind `name` on this thread fails. The second answer: whether there were so
    /// many.
    #[doc(hidden)]
    pub fn with<R>(name: &'static str, nth: u64, f: impl FnOnce() -> R) -> (R, bool) {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                ARMED.set(("", 0));
            }
        }
        let _reset = Reset;
        ARMED.set((name, nth));
        let result = f();
        (result, ARMED.get().0.is_empty())
    }
}

#[cfg(not(any(test, all(feature = "testing", any(debug_assertions, loom)))))]
mod imp {
    /// Never.
    #[doc(hidden)]
    #[inline(always)]
    pub const fn strikes(_: &str) -> bool {
        false
    }

    /// Runs `f`.
    #[doc(hidden)]
    pub fn with<R>(_: &'static str, _: u64, f: impl FnOnce() -> R) -> (R, bool) {
        (f(), false)
    }
}

pub use imp::{strikes, with};
