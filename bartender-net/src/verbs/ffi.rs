//! What is used of libibverbs' C interface (ABI 1.1, 64 bits), loaded at run time: nothing is linked, and no header
//! is needed to build.
//!
//! The bindings that exist link C code under the GPL into the program. These are the public structs, with their sizes
//! and offsets asserted below as the C compiler lays them out; what is not used of them is left opaque.

use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

/// Opened device. What follows `ops` is libibverbs' own.
#[repr(C)]
pub(super) struct Context {
    pub(super) device: *mut c_void,
    pub(super) ops: Ops,
}

/// The operations that do not go through the kernel; the others are stubs there.
#[repr(C)]
pub(super) struct Ops {
    other: [*mut c_void; 11],
    pub(super) poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int,
    pub(super) req_notify_cq: unsafe extern "C" fn(*mut Cq, c_int) -> c_int,
    other_2: [*mut c_void; 12],
    pub(super) post_send: unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int,
    pub(super) post_recv: unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int,
    other_3: [*mut c_void; 5],
}

/// Completion queue.
#[repr(C)]
pub(super) struct Cq {
    pub(super) context: *mut Context,
}

/// Completion channel.
#[repr(C)]
pub(super) struct Channel {
    pub(super) context: *mut Context,
    pub(super) fd: c_int,
}

/// Memory region.
#[repr(C)]
pub(super) struct Mr {
    pub(super) context: *mut Context,
    pub(super) pd: *mut c_void,
    pub(super) addr: *mut c_void,
    pub(super) length: usize,
    pub(super) handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// Queue pair.
#[repr(C)]
pub(super) struct Qp {
    pub(super) context: *mut Context,
    pointers: [*mut c_void; 5],
    pub(super) handle: u32,
    pub(super) qp_num: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

#[repr(C)]
pub(super) struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: u32,
    pub(super) sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct AhAttr {
    pub(super) dgid: [u64; 2],
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) padding: u8,
    pub(super) dlid: u16,
    pub(super) sl: u8,
    pub(super) src_path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpAttr {
    pub(super) qp_state: u32,
    pub(super) cur_qp_state: u32,
    pub(super) path_mtu: u32,
    pub(super) path_mig_state: u32,
    pub(super) qkey: u32,
    pub(super) rq_psn: u32,
    pub(super) sq_psn: u32,
    pub(super) dest_qp_num: u32,
    pub(super) qp_access_flags: u32,
    pub(super) cap: QpCap,
    pub(super) ah_attr: AhAttr,
    pub(super) alt_ah_attr: AhAttr,
    pub(super) pkey_index: u16,
    pub(super) alt_pkey_index: u16,
    pub(super) en_sqd_async_notify: u8,
    pub(super) sq_draining: u8,
    pub(super) max_rd_atomic: u8,
    pub(super) max_dest_rd_atomic: u8,
    pub(super) min_rnr_timer: u8,
    pub(super) port_num: u8,
    pub(super) timeout: u8,
    pub(super) retry_cnt: u8,
    pub(super) rnr_retry: u8,
    pub(super) alt_port_num: u8,
    pub(super) alt_timeout: u8,
    pub(super) rate_limit: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// A work request. `words` is the union `wr`: address and key, or address, operand, operand, key.
#[repr(C)]
pub(super) struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: u32,
    pub(super) send_flags: u32,
    pub(super) imm_data: u32,
    pub(super) words: [u64; 4],
    pub(super) other: [u64; 7],
}

#[repr(C)]
pub(super) struct RecvWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut RecvWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// A completion.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Wc {
    pub(super) wr_id: u64,
    pub(super) status: u32,
    pub(super) opcode: u32,
    pub(super) vendor_err: u32,
    pub(super) byte_len: u32,
    pub(super) imm_data: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) wc_flags: u32,
    pub(super) pkey_index: u16,
    pub(super) slid: u16,
    pub(super) sl: u8,
    pub(super) dlid_path_bits: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct PortAttr {
    pub(super) state: u32,
    pub(super) max_mtu: u32,
    pub(super) active_mtu: u32,
    pub(super) gid_tbl_len: c_int,
    pub(super) port_cap_flags: u32,
    pub(super) max_msg_sz: u32,
    pub(super) bad_pkey_cntr: u32,
    pub(super) qkey_viol_cntr: u32,
    pub(super) pkey_tbl_len: u16,
    pub(super) lid: u16,
    pub(super) sm_lid: u16,
    pub(super) lmc: u8,
    pub(super) max_vl_num: u8,
    pub(super) sm_sl: u8,
    pub(super) subnet_timeout: u8,
    pub(super) init_type_reply: u8,
    pub(super) active_width: u8,
    pub(super) active_speed: u8,
    pub(super) phys_state: u8,
    pub(super) link_layer: u8,
    pub(super) flags: u8,
    pub(super) port_cap_flags2: u16,
}

const _: () = {
    assert!(size_of::<Ops>() == 256);
    assert!(offset_of!(Ops, poll_cq) == 88 && offset_of!(Ops, req_notify_cq) == 96);
    assert!(offset_of!(Ops, post_send) == 200 && offset_of!(Ops, post_recv) == 208);
    assert!(offset_of!(Context, ops) == 8 && offset_of!(Channel, fd) == 8);
    assert!(offset_of!(Mr, lkey) == 36 && offset_of!(Mr, rkey) == 40);
    assert!(offset_of!(Qp, qp_num) == 52);
    assert!(size_of::<QpInitAttr>() == 64 && offset_of!(QpInitAttr, qp_type) == 52);
    assert!(size_of::<AhAttr>() == 32 && size_of::<QpAttr>() == 144);
    assert!(offset_of!(QpAttr, ah_attr) == 56 && offset_of!(QpAttr, pkey_index) == 120);
    assert!(offset_of!(QpAttr, max_rd_atomic) == 126 && offset_of!(QpAttr, port_num) == 129);
    assert!(offset_of!(QpAttr, timeout) == 130 && offset_of!(QpAttr, rate_limit) == 136);
    assert!(size_of::<Sge>() == 16 && size_of::<SendWr>() == 128 && size_of::<RecvWr>() == 32);
    assert!(offset_of!(SendWr, imm_data) == 36 && offset_of!(SendWr, words) == 40);
    assert!(size_of::<Wc>() == 48 && offset_of!(Wc, imm_data) == 24);
    assert!(size_of::<PortAttr>() == 52 && offset_of!(PortAttr, lid) == 34);
    assert!(offset_of!(PortAttr, link_layer) == 46);
};

pub(super) const ACCESS_LOCAL_WRITE: u32 = 1;
pub(super) const ACCESS_REMOTE_WRITE: u32 = 2;
pub(super) const ACCESS_REMOTE_READ: u32 = 4;
pub(super) const ACCESS_REMOTE_ATOMIC: u32 = 8;

pub(super) const QPT_RC: u32 = 2;
pub(super) const STATE_INIT: u32 = 1;
pub(super) const STATE_RTR: u32 = 2;
pub(super) const STATE_RTS: u32 = 3;

/// Which fields of [`QpAttr`] count, for the changes to init, ready to receive, ready to send.
pub(super) const MASK_INIT: u32 = 1 | 1 << 3 | 1 << 4 | 1 << 5;
pub(super) const MASK_RTR: u32 = 1 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 15 | 1 << 17 | 1 << 20;
pub(super) const MASK_RTS: u32 = 1 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 16;

pub(super) const WR_WRITE: u32 = 0;
pub(super) const WR_WRITE_IMM: u32 = 1;
pub(super) const WR_SEND: u32 = 2;
pub(super) const WR_READ: u32 = 4;
pub(super) const WR_COMPARE_SWAP: u32 = 5;
pub(super) const WR_FETCH_ADD: u32 = 6;
pub(super) const SEND_SIGNALED: u32 = 2;
pub(super) const SEND_INLINE: u32 = 8;

pub(super) const WC_RECV: u32 = 128;
pub(super) const WC_RECV_IMM: u32 = 129;
pub(super) const STATUS_INVALID_REQUEST: u32 = 9;
pub(super) const STATUS_ACCESS: u32 = 10;
pub(super) const STATUS_OPERATION: u32 = 11;
pub(super) const STATUS_RETRY: u32 = 12;

pub(super) const PORT_ACTIVE: u32 = 4;
pub(super) const ETHERNET: u8 = 2;

/// Declares the table of functions, and how it is filled.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libibverbs.
        pub(super) struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// Loads the library; it stays for as long as the process lives.
            pub(super) fn load() -> Result<Library> {
                let library = open()?;
                $(
                    let symbol = find(library, concat!("ibv_", stringify!($name), "\0"))?;
                    // SAFETY: the symbol of that name has this signature in every libibverbs of ABI 1.1, which is
                    // what `libibverbs.so.1` names; a function's address is a function pointer on Linux.
                    let $name = unsafe {
                        std::mem::transmute::<
                            *mut c_void,
                            unsafe extern "C" fn($($argument),*) $(-> $result)?,
                        >(symbol)
                    };
                )*
                Ok(Library { $($name,)* })
            }
        }
    };
}

functions! {
    get_device_list: fn(*mut c_int) -> *mut *mut c_void;
    free_device_list: fn(*mut *mut c_void);
    get_device_name: fn(*mut c_void) -> *const c_char;
    open_device: fn(*mut c_void) -> *mut Context;
    close_device: fn(*mut Context) -> c_int;
    alloc_pd: fn(*mut Context) -> *mut c_void;
    dealloc_pd: fn(*mut c_void) -> c_int;
    reg_mr: fn(*mut c_void, *mut c_void, usize, c_int) -> *mut Mr;
    dereg_mr: fn(*mut Mr) -> c_int;
    create_comp_channel: fn(*mut Context) -> *mut Channel;
    destroy_comp_channel: fn(*mut Channel) -> c_int;
    create_cq: fn(*mut Context, c_int, *mut c_void, *mut Channel, c_int) -> *mut Cq;
    destroy_cq: fn(*mut Cq) -> c_int;
    get_cq_event: fn(*mut Channel, *mut *mut Cq, *mut *mut c_void) -> c_int;
    ack_cq_events: fn(*mut Cq, u32);
    create_qp: fn(*mut c_void, *mut QpInitAttr) -> *mut Qp;
    modify_qp: fn(*mut Qp, *mut QpAttr, c_int) -> c_int;
    destroy_qp: fn(*mut Qp) -> c_int;
    query_port: fn(*mut Context, u8, *mut PortAttr) -> c_int;
    query_gid: fn(*mut Context, u8, c_int, *mut [u8; 16]) -> c_int;
}

fn open() -> Result<*mut c_void> {
    // SAFETY: a C string; what the library runs when it is loaded is its own affair.
    let library = unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return Err(Error::NoDevice {
            what: format!("{}; install libibverbs (Debian: libibverbs1)", problem()),
        });
    }
    Ok(library)
}

fn find(library: *mut c_void, name: &str) -> Result<*mut c_void> {
    let name = CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or(c"");
    // SAFETY: the handle is of `dlopen`'s and never closed; the name is a C string.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    if symbol.is_null() {
        return Err(Error::NoDevice {
            what: format!("libibverbs is too old: {}", problem()),
        });
    }
    Ok(symbol)
}

/// What the loader says.
fn problem() -> String {
    // SAFETY: the text is the loader's, and read before its next call by this thread.
    let text = unsafe {
        let text = libc::dlerror();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    };
    text.unwrap_or_else(|| "libibverbs.so.1 cannot be loaded".into())
}
