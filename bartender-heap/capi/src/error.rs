//! What a failing call tells: a number for `errno` and a message of the thread.
//!
//! It promises that no panic gets through [`guard`], and that a message stays
//! where it is until the next failing call of the same thread. It prints nothing.

#![allow(unsafe_code)]

use bartender_pm::Error as Pm;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why a call fails.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) errno: c_int,
    pub(crate) message: String,
}

/// Result of this crate.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(errno: c_int, message: impl Into<String>) -> Failure {
        Failure {
            errno,
            message: message.into(),
        }
    }

    /// An argument makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(libc::EINVAL, message)
    }
}

impl From<Pm> for Failure {
    fn from(error: Pm) -> Failure {
        let errno = match &error {
            Pm::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Pm::Busy { .. } => libc::EBUSY,
            Pm::NotARegion { .. } | Pm::BadOption { .. } => libc::EINVAL,
            Pm::NewerFormat { .. } | Pm::OlderFormat { .. } => libc::ENOTSUP,
            Pm::Truncated { .. } | Pm::Damaged { .. } | Pm::Relocating { .. } => libc::EBADMSG,
            Pm::AddressTaken { .. } => libc::EADDRINUSE,
            Pm::OutOfSpace { .. } => libc::ENOMEM,
            Pm::LogFull { .. } => libc::EFBIG,
            Pm::Forked => libc::EPERM,
            Pm::Closed => libc::EBADF,
            _ => libc::EIO,
        };
        Failure::new(errno, error.to_string())
    }
}

impl From<bartender_heap::Error> for Failure {
    fn from(error: bartender_heap::Error) -> Failure {
        use bartender_heap::Error::*;
        let errno = match error {
            Region(error) => return (*error).into(),
            NotAHeap { .. } | HeapExists | Typed { .. } => libc::EINVAL,
            NotABlock { .. } | DoubleFree { .. } => libc::EINVAL,
            NewerFormat { .. } | OlderFormat { .. } => libc::ENOTSUP,
            Damaged { .. } | BadSchema(_) | BadData { .. } | Leaked { .. } => libc::EBADMSG,
            BadLayout { .. } | NoMemory { .. } => libc::ENOMEM,
            Immovable => libc::EADDRINUSE,
            Closed => libc::EBADF,
            _ => libc::EIO,
        };
        Failure::new(errno, error.to_string())
    }
}

thread_local! {
    static MESSAGE: RefCell<CString> = RefCell::default();
}

/// The message of this thread's last failing call, empty before the first.
pub(crate) fn message() -> *const c_char {
    let message = MESSAGE.try_with(|message| message.borrow().as_ptr());
    // A thread that is ending has lost its own.
    const ENDING: &CStr = c"the thread is ending";
    message.unwrap_or(ENDING.as_ptr())
}

/// Sets `errno` and the thread's message.
#[cold]
pub(crate) fn fail(failure: Failure) {
    let mut bytes = failure.message.into_bytes();
    bytes.retain(|byte| *byte != 0);
    let _ =
        MESSAGE.try_with(|message| *message.borrow_mut() = CString::new(bytes).unwrap_or_default());
    // SAFETY: the calling thread's own number.
    unsafe { *libc::__errno_location() = failure.errno };
}

/// What `f` returns; `failed` where it fails or panics, after `errno` and the
/// message are set.
pub(crate) fn guard<T>(failed: T, f: impl FnOnce() -> Result<T>) -> T {
    // A panic is a mistake of this library: transactions restore nothing by
    // themselves, the heap's own state is changed by single stores.
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|cause| Err(panicked(&*cause)));
    result.unwrap_or_else(|failure| {
        fail(failure);
        failed
    })
}

#[cold]
fn panicked(cause: &(dyn Any + Send)) -> Failure {
    let text = cause.downcast_ref::<&str>().copied();
    let text = text.or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("of unknown kind");
    Failure::new(
        libc::EIO,
        format!(
            "an error inside of bartender ({text}); what was persisted is safe: end the program and open the region again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno() -> c_int {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
    }

    fn text() -> String {
        // SAFETY: a message of this thread, which does not fail meanwhile.
        unsafe { CStr::from_ptr(message()) }
            .to_string_lossy()
            .into()
    }

    #[test]
    fn a_failure_is_told_to_its_thread_only_and_a_success_leaves_it() {
        let failed = guard(-1, || Err(Failure::new(libc::EBUSY, "in\0use")));
        assert_eq!((failed, errno(), text()), (-1, libc::EBUSY, "inuse".into()));
        assert_eq!(guard(-1, || Ok(0)), 0);
        assert_eq!(text(), "inuse");
        let other = std::thread::spawn(text).join().expect("no panic");
        assert_eq!(other, "");
    }

    #[test]
    fn a_panic_becomes_a_failure() {
        let failed = guard(-1, || -> Result<i32> { panic!("seven") });
        assert_eq!((failed, errno()), (-1, libc::EIO));
        assert!(text().contains("(seven)"), "{}", text());
    }
}
