//! Owners of what libibverbs gives: a device, registered memory, a queue of completions, a queue pair. Each frees what
//! it owns, after those that need it.

use super::ffi;
use super::hello::Way;
use crate::error::{Error, Result};
use bartender_pm::sync::Arc;
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

/// An open device with its protection domain.
pub(super) struct Device {
    library: ffi::Library,
    context: NonNull<ffi::Context>,
    domain: NonNull<c_void>,
    pub(super) name: String,
    port: u8,
    attributes: ffi::PortAttr,
    gid: [u8; 16],
    gid_index: u8,
}

// SAFETY: libibverbs' objects may be used by all threads.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.name)
    }
}

fn none(what: String) -> Error {
    Error::NoDevice { what }
}

impl Device {
    /// Opens a device by its name, or the first.
    pub(super) fn open(wanted: Option<&str>, port: u8) -> Result<Device> {
        let library = ffi::Library::load()?;
        let mut count = 0;
        // SAFETY: `count` is where the number goes.
        let list = unsafe { (library.get_device_list)(&mut count) };
        if list.is_null() {
            let why = io::Error::last_os_error();
            return Err(none(format!("the kernel has no RDMA ({why})")));
        }
        let mut known = Vec::new();
        let mut opened = None;
        for i in 0..count as usize {
            // SAFETY: the list has `count` devices, and each has a name for as long as the list lives.
            let (device, name) = unsafe {
                let device = *list.add(i);
                let name = CStr::from_ptr((library.get_device_name)(device));
                (device, name.to_string_lossy().into_owned())
            };
            if opened.is_none() && wanted.is_none_or(|wanted| wanted == name) {
                // SAFETY: a device of the list, which is not freed yet.
                let context = unsafe { (library.open_device)(device) };
                opened = Some((
                    name.clone(),
                    NonNull::new(context),
                    io::Error::last_os_error(),
                ));
            }
            known.push(name);
        }
        // SAFETY: the list of above; opened devices outlive it.
        unsafe { (library.free_device_list)(list) };
        let (name, context) = match opened {
            Some((name, Some(context), _)) => (name, context),
            Some((name, None, why)) => return Err(none(format!("{name} cannot be opened: {why}"))),
            None if known.is_empty() => return Err(none("this machine has none".into())),
            None => {
                let wanted = wanted.unwrap_or_default();
                let known = known.join(", ");
                return Err(none(format!("there is no {wanted}; there are: {known}")));
            }
        };
        // SAFETY: an open device.
        let domain = unsafe { (library.alloc_pd)(context.as_ptr()) };
        let Some(domain) = NonNull::new(domain) else {
            let why = io::Error::last_os_error();
            // SAFETY: nobody else has it.
            unsafe { (library.close_device)(context.as_ptr()) };
            return Err(none(format!("{name} gives no protection domain: {why}")));
        };
        let mut device = Device {
            library,
            context,
            domain,
            name,
            port,
            attributes: ffi::PortAttr::default(),
            gid: [0; 16],
            gid_index: 0,
        };
        device.look()?;
        Ok(device)
    }

    /// Looks at the port, and chooses the address by which others reach it: on Ethernet that of RoCE version 2 with
    /// an address of IPv4, if there is one.
    fn look(&mut self) -> Result<()> {
        let (context, port) = (self.context.as_ptr(), self.port);
        // SAFETY: an open device; the struct is as long as any version of the library fills.
        let status = unsafe { (self.library.query_port)(context, port, &mut self.attributes) };
        if status != 0 {
            let name = &self.name;
            return Err(none(format!("{name} has no port {port}")));
        }
        if self.attributes.state != ffi::PORT_ACTIVE {
            let (name, state) = (&self.name, self.attributes.state);
            let what =
                format!("port {port} of {name} is not active (state {state}); is the link up?");
            return Err(none(what));
        }
        let mut best = 0;
        for index in 0..self.attributes.gid_tbl_len.clamp(0, 255) {
            let mut gid = [0; 16];
            // SAFETY: an open device; 16 bytes are written.
            let status = unsafe { (self.library.query_gid)(context, port, index, &mut gid) };
            if status != 0 || gid == [0; 16] {
                continue;
            }
            let name = &self.name;
            let path = format!("/sys/class/infiniband/{name}/ports/{port}/gid_attrs/types/{index}");
            let kind = std::fs::read_to_string(path).unwrap_or_default();
            let second = kind.trim() == "RoCE v2";
            let four = gid[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
            let rank = 1 + u8::from(four) + 2 * u8::from(second);
            if rank > best {
                (best, self.gid, self.gid_index) = (rank, gid, index as u8);
            }
        }
        Ok(())
    }

    /// Most bytes of one work request.
    pub(super) fn message_limit(&self) -> u32 {
        self.attributes.max_msg_sz.clamp(4096, 1 << 30)
    }

    /// What a peer has to know to reach a queue pair here.
    pub(super) fn way(&self, pair: &Pair, psn: u32) -> Way {
        Way {
            number: pair.number(),
            psn,
            gid: self.gid,
            lid: self.attributes.lid,
            mtu: self.attributes.active_mtu as u8,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: ours; whatever is made of them holds this device alive, and is gone.
        unsafe {
            (self.library.dealloc_pd)(self.domain.as_ptr());
            (self.library.close_device)(self.context.as_ptr());
        }
    }
}

/// Registered memory, until it is dropped.
pub(super) struct Registered {
    device: Arc<Device>,
    region: NonNull<ffi::Mr>,
}

// SAFETY: libibverbs' objects may be used by all threads.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl Registered {
    /// Registers memory with the device.
    ///
    /// # Safety
    ///
    /// The memory stays mapped for as long as the value lives. What may be written by the card is not borrowed.
    pub(super) unsafe fn new(
        device: &Arc<Device>,
        base: *mut u8,
        len: usize,
        access: u32,
    ) -> Result<Registered> {
        let library = &device.library;
        // SAFETY: the caller's word for the memory; the domain is the device's.
        let region =
            unsafe { (library.reg_mr)(device.domain.as_ptr(), base.cast(), len, access as c_int) };
        let region = NonNull::new(region).ok_or_else(|| Error::Register {
            len: len as u64,
            what: match io::Error::last_os_error() {
                why if why.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    format!("{why}; a file's pages cannot be pinned, use a device or shared memory")
                }
                why if why.raw_os_error() == Some(libc::ENOMEM) => {
                    format!("{why}; is the limit of locked memory (ulimit -l) high enough?")
                }
                why => why.to_string(),
            },
        })?;
        Ok(Registered {
            device: Arc::clone(device),
            region,
        })
    }

    pub(super) fn local_key(&self) -> u32 {
        // SAFETY: ours, and constant.
        unsafe { self.region.as_ref().lkey }
    }

    pub(super) fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.region.as_ref().rkey }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: ours. When this returns the card does not go there any more.
        unsafe { (self.device.library.dereg_mr)(self.region.as_ptr()) };
    }
}

/// Completions of one queue pair, and the file that says that there are some.
pub(super) struct Queue {
    device: Arc<Device>,
    channel: NonNull<ffi::Channel>,
    queue: NonNull<ffi::Cq>,
}

// SAFETY: libibverbs' objects may be used by all threads.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// The file that becomes readable, under a descriptor of the caller's.
    pub(super) fn file(&self) -> io::Result<OwnedFd> {
        // SAFETY: ours, constant, and open for as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }.try_clone_to_owned()
    }

    pub(super) fn new(device: &Arc<Device>, len: u32) -> Result<Queue> {
        let (library, context) = (&device.library, device.context.as_ptr());
        let why = |what: &str| none(format!("no {what}: {}", io::Error::last_os_error()));
        // SAFETY: an open device.
        let channel = unsafe { (library.create_comp_channel)(context) };
        let channel = NonNull::new(channel).ok_or_else(|| why("completion channel"))?;
        // SAFETY: the descriptor is the channel's; flags of a file are changed, nothing else.
        unsafe {
            let fd = channel.as_ref().fd;
            let flags = libc::fcntl(fd, libc::F_GETFL);
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
        }
        // SAFETY: device and channel are open; vector 0 is always there.
        let queue = unsafe {
            (library.create_cq)(context, len as c_int, ptr::null_mut(), channel.as_ptr(), 0)
        };
        let Some(queue) = NonNull::new(queue) else {
            let error = why("completion queue");
            // SAFETY: nobody else has it.
            unsafe { (library.destroy_comp_channel)(channel.as_ptr()) };
            return Err(error);
        };
        Ok(Queue {
            device: Arc::clone(device),
            channel,
            queue,
        })
    }

    /// Takes completions: how many.
    pub(super) fn poll(&self, into: &mut [ffi::Wc]) -> usize {
        // SAFETY: ours; at most as many are written as there is room for. The function is the device's own.
        let count = unsafe {
            let poll = self.device.context.as_ref().ops.poll_cq;
            poll(self.queue.as_ptr(), into.len() as c_int, into.as_mut_ptr())
        };
        count.max(0) as usize
    }

    /// The next completion makes the file readable.
    pub(super) fn arm(&self) {
        // SAFETY: ours; the function is the device's own.
        unsafe {
            let notify = self.device.context.as_ref().ops.req_notify_cq;
            notify(self.queue.as_ptr(), 0);
        }
    }

    /// Takes what made the file readable; whether there was something.
    pub(super) fn take_event(&self) -> bool {
        let (mut queue, mut context) = (ptr::null_mut(), ptr::null_mut());
        let library = &self.device.library;
        // SAFETY: ours; the file does not block. What was taken is acknowledged, so that destroying does not wait.
        unsafe {
            if (library.get_cq_event)(self.channel.as_ptr(), &mut queue, &mut context) != 0 {
                return false;
            }
            (library.ack_cq_events)(queue, 1);
        }
        true
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: ours; the queue pair that used it held it, and is gone.
        unsafe {
            (self.device.library.destroy_cq)(self.queue.as_ptr());
            (self.device.library.destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}

/// A reliable connection's end. When it has been dropped the card touches nothing for it any more.
pub(super) struct Pair {
    device: Arc<Device>,
    _queue: Arc<Queue>,
    pair: NonNull<ffi::Qp>,
    /// Most bytes that travel within a work request.
    pub(super) inline: u32,
}

// SAFETY: libibverbs' objects may be used by all threads.
unsafe impl Send for Pair {}
// SAFETY: as above.
unsafe impl Sync for Pair {}

/// Reads and atomics that may be under way at once, each way.
const READS: u8 = 8;

impl Pair {
    /// `rights`: what the peer's one-sided operations may do at all ([`ffi::ACCESS_REMOTE_READ`] and so on), whatever
    /// key they name.
    pub(super) fn new(
        device: &Arc<Device>,
        queue: &Arc<Queue>,
        sends: u32,
        recvs: u32,
        rights: u32,
    ) -> Result<Pair> {
        let mut attributes = ffi::QpInitAttr {
            qp_context: ptr::null_mut(),
            send_cq: queue.queue.as_ptr(),
            recv_cq: queue.queue.as_ptr(),
            srq: ptr::null_mut(),
            cap: ffi::QpCap {
                max_send_wr: sends,
                max_recv_wr: recvs,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 128,
            },
            qp_type: ffi::QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and queue are open and of one device.
        let pair = unsafe { (device.library.create_qp)(device.domain.as_ptr(), &mut attributes) };
        let pair = NonNull::new(pair)
            .ok_or_else(|| none(format!("no queue pair: {}", io::Error::last_os_error())))?;
        let pair = Pair {
            device: Arc::clone(device),
            _queue: Arc::clone(queue),
            pair,
            inline: attributes.cap.max_inline_data,
        };
        pair.modify(
            ffi::QpAttr {
                qp_state: ffi::STATE_INIT,
                qp_access_flags: rights,
                port_num: device.port,
                ..Default::default()
            },
            ffi::MASK_INIT,
        )?;
        Ok(pair)
    }

    fn number(&self) -> u32 {
        // SAFETY: ours, and constant.
        unsafe { self.pair.as_ref().qp_num }
    }

    fn modify(&self, mut attributes: ffi::QpAttr, mask: u32) -> Result<()> {
        let modify = self.device.library.modify_qp;
        // SAFETY: ours; the mask names fields that are set.
        let status = unsafe { modify(self.pair.as_ptr(), &mut attributes, mask as c_int) };
        if status == 0 {
            return Ok(());
        }
        let state = attributes.qp_state;
        let why = io::Error::from_raw_os_error(status);
        Err(none(format!(
            "the queue pair does not go to state {state}: {why}"
        )))
    }

    /// Connects it to that of a peer.
    pub(super) fn connect(&self, ours: &Way, theirs: &Way) -> Result<()> {
        let mut attributes = ffi::QpAttr {
            qp_state: ffi::STATE_RTR,
            path_mtu: u32::from(ours.mtu.min(theirs.mtu).clamp(1, 5)),
            dest_qp_num: theirs.number,
            rq_psn: theirs.psn,
            max_dest_rd_atomic: READS,
            // 10 µs: who had no buffer for a message has one soon.
            min_rnr_timer: 1,
            ..Default::default()
        };
        let (high, low) = theirs.gid.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        attributes.ah_attr = ffi::AhAttr {
            dgid: [word(high), word(low)],
            sgid_index: self.device.gid_index,
            hop_limit: 64,
            dlid: theirs.lid,
            is_global: u8::from(self.device.attributes.link_layer == ffi::ETHERNET),
            port_num: self.device.port,
            ..Default::default()
        };
        self.modify(attributes, ffi::MASK_RTR)?;
        self.modify(
            ffi::QpAttr {
                qp_state: ffi::STATE_RTS,
                // 67 ms, and seven times that; without a buffer at the target as often as it takes.
                timeout: 14,
                retry_cnt: 7,
                rnr_retry: 7,
                sq_psn: ours.psn,
                max_rd_atomic: READS,
                ..Default::default()
            },
            ffi::MASK_RTS,
        )
    }

    /// Posts a work request.
    ///
    /// # Safety
    ///
    /// What it names stays registered until its completion was polled, or this was dropped; with
    /// [`ffi::SEND_INLINE`] it is readable now.
    pub(super) unsafe fn send(&self, mut request: ffi::SendWr, mut piece: ffi::Sge) -> bool {
        request.sg_list = &mut piece;
        request.num_sge = c_int::from(piece.length > 0);
        let mut bad = ptr::null_mut();
        // SAFETY: ours; the caller's word for the memory; request and piece are copied before it returns.
        unsafe {
            let post = self.device.context.as_ref().ops.post_send;
            post(self.pair.as_ptr(), &mut request, &mut bad) == 0
        }
    }

    /// Posts a buffer for what comes.
    ///
    /// # Safety
    ///
    /// As [`send`](Self::send); and the card writes there.
    pub(super) unsafe fn receive(&self, id: u64, mut piece: ffi::Sge) -> bool {
        let mut request = ffi::RecvWr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: &mut piece,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            let post = self.device.context.as_ref().ops.post_recv;
            post(self.pair.as_ptr(), &mut request, &mut bad) == 0
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { (self.device.library.destroy_qp)(self.pair.as_ptr()) };
    }
}
