//! Deliberately broken builds. A test switches one rule off and shows that the
//! crash simulator notices; in other builds the switches are constants.

#[cfg(any(test, feature = "testing"))]
mod imp {
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<&'static str> = const { Cell::new("") };
    }

    /// Whether the calling thread runs with the rule `name` switched off.
    pub(crate) fn is(name: &str) -> bool {
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

#[cfg(not(any(test, feature = "testing")))]
mod imp {
    #[inline(always)]
    pub(crate) const fn is(_: &str) -> bool {
        false
    }
}

pub(crate) use imp::is;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use imp::with;
