//! Deliberately broken builds. A test switches one rule off and shows that the
//! crash simulator notices.
//!
//! The switches are there in this crate's own tests, and with the feature
//! `testing` in builds with debug assertions or for loom; in others they are
//! constants.

#[cfg(any(test, all(feature = "testing", any(debug_assertions, loom))))]
mod imp {
    use std::cell::Cell;

    /// Whether there are switches in this build.
    pub const ON: bool = true;

    thread_local! {
        static ACTIVE: Cell<&'static str> = const { Cell::new("") };
    }

    /// Whether the calling thread runs with the rule `name` switched off.
    #[doc(hidden)]
    pub fn is(name: &str) -> bool {
        ACTIVE.get() == name
    }

    /// Runs `f` on this thread with the rule `name` switched off. Only for
    /// tests of tests.
    #[doc(hidden)]
    pub fn with<R>(name: &'static str, f: impl FnOnce() -> R) -> R {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                ACTIVE.set("");
            }
        }
        let _reset = Reset;
        ACTIVE.set(name);
        f()
    }
}

#[cfg(not(any(test, all(feature = "testing", any(debug_assertions, loom)))))]
mod imp {
    /// Whether there are switches in this build.
    pub const ON: bool = false;

    /// Never.
    #[doc(hidden)]
    #[inline(always)]
    pub const fn is(_: &str) -> bool {
        false
    }

    /// Runs `f`, with all rules on.
    #[doc(hidden)]
    pub fn with<R>(_: &'static str, f: impl FnOnce() -> R) -> R {
        f()
    }
}

pub use imp::{ON, is, with};
