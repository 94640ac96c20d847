//! The thread's heap in the heap that it used last: one word, found without a
//! call.
//!
//! `std`'s thread-local data are found by a call from a shared library, and from
//! a program where the compiler has not inlined it, which takes longer than the
//! rest of allocating. The word here lies in the block of thread-local data that
//! a thread has from its start (*initial exec*, as in other allocators): a
//! library with it that is loaded late takes its thread-local data from the
//! little that the dynamic linker keeps for that. The word has nothing to
//! destroy. Elsewhere than on Linux for x86-64, and under Miri, it is `std`'s.

pub(super) use imp::{get, set};

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod imp {
    #![allow(unsafe_code)]

    use crate::local::Local;
    use std::arch::{asm, global_asm};

    /// Its name: two versions of this crate in one program have two words.
    macro_rules! name {
        () => {
            concat!(
                "bartender_heap_last_",
                env!("CARGO_PKG_VERSION_MAJOR"),
                "_",
                env!("CARGO_PKG_VERSION_MINOR"),
                "_",
                env!("CARGO_PKG_VERSION_PATCH"),
            )
        };
    }

    global_asm!(
        ".pushsection .tdata.bartender_heap,\"awT\",@progbits",
        ".p2align 3",
        concat!(".globl ", name!()),
        concat!(".type ", name!(), ",@object"),
        concat!(".size ", name!(), ",8"),
        concat!(name!(), ":"),
        ".quad {nobody}",
        ".popsection",
        nobody = sym super::super::NOBODY,
    );

    /// How far from the thread pointer it is: the same in every thread.
    #[inline(always)]
    fn offset() -> isize {
        let offset;
        // SAFETY: a load of what the dynamic linker wrote, which does not change.
        unsafe {
            asm!(
                concat!("mov {}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                out(reg) offset,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        offset
    }

    /// The calling thread's word.
    #[inline(always)]
    pub(in super::super) fn get() -> *const Local {
        let word: *const Local;
        // SAFETY: a load of the calling thread's own memory.
        unsafe {
            asm!(
                "mov {}, qword ptr fs:[{}]",
                lateout(reg) word,
                in(reg) offset(),
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word
    }

    /// Changes it.
    pub(in super::super) fn set(word: *const Local) {
        // SAFETY: a store to the calling thread's own memory, to which nobody has a reference.
        unsafe {
            asm!(
                "mov qword ptr fs:[{}], {}",
                in(reg) offset(),
                in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
mod imp {
    use super::super::nobody;
    use crate::local::Local;
    use std::cell::Cell;

    thread_local! {
        static LAST: Cell<*const Local> = const { Cell::new(nobody()) };
    }

    /// The calling thread's word.
    #[inline(always)]
    pub(in super::super) fn get() -> *const Local {
        LAST.get()
    }

    /// Changes it.
    pub(in super::super) fn set(word: *const Local) {
        LAST.set(word);
    }
}
