//! libtorch's c10d Gloo engine (`shim/gloo.cc`) in safe types: a key-value store for rendezvous and
//! a process group over TCP for CPU tensors.
//!
//! It must never wait without a deadline: every call takes or keeps one. All ranks of a group make
//! the same calls in the same order; that is the caller's duty, and a breach ends at the deadline.
//!
//! Neither the store nor Gloo encrypts or authenticates. Both listen only on the address they are
//! given, which must belong to a network that the operator trusts.

#![expect(unsafe_code, reason = "calls the C++ shim")]

use std::cell::Cell;
use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tch::Tensor;

use crate::torch::status::{MessageBuffer, ShimError, Status, call};

/// `CohortStore` of the shim.
#[repr(C)]
struct RawStore {
    _opaque: [u8; 0],
}

/// `CohortGroup` of the shim.
#[repr(C)]
struct RawGroup {
    _opaque: [u8; 0],
}

/// `CohortGroupOptions` of the shim.
#[repr(C)]
struct RawGroupOptions {
    store: *mut RawStore,
    prefix: *const c_char,
    host: *const c_char,
    rank: i32,
    world: i32,
    connect_timeout_ms: i64,
    operation_timeout_ms: i64,
}

unsafe extern "C" {
    fn cohort_store_serve(
        host: *const c_char,
        port: u16,
        fd: i32,
        timeout_ms: i64,
        out: *mut *mut RawStore,
        message: MessageBuffer,
    ) -> i32;
    fn cohort_store_connect(
        host: *const c_char,
        port: u16,
        timeout_ms: i64,
        out: *mut *mut RawStore,
        message: MessageBuffer,
    ) -> i32;
    fn cohort_store_free(store: *mut RawStore);

    fn cohort_group_create(
        options: *const RawGroupOptions,
        out: *mut *mut RawGroup,
        message: MessageBuffer,
    ) -> i32;
    fn cohort_group_all_reduce_sum(
        group: *mut RawGroup,
        tensor: *const c_void,
        message: MessageBuffer,
    ) -> i32;
    fn cohort_group_broadcast(
        group: *mut RawGroup,
        tensor: *const c_void,
        root: i32,
        message: MessageBuffer,
    ) -> i32;
    fn cohort_group_barrier(group: *mut RawGroup, message: MessageBuffer) -> i32;
    fn cohort_group_abort(group: *mut RawGroup);
    fn cohort_group_farewell(group: *mut RawGroup, message: MessageBuffer) -> i32;
    fn cohort_group_free(group: *mut RawGroup);
}

/// A key-value store over TCP through which the ranks of a group find each other. One rank serves
/// it, all others connect. A group keeps its store alive, so this may be dropped once all groups
/// are formed.
#[derive(Debug)]
pub struct TcpStore {
    raw: NonNull<RawStore>,
    address: SocketAddr,
}

impl TcpStore {
    /// Serves a store on a free port of `host`. `timeout` limits every wait on its keys.
    ///
    /// # Errors
    /// `host` is not an address of this machine, or no port is free.
    pub fn serve(host: IpAddr, timeout: Duration) -> Result<Self, ShimError> {
        let refuse = |error: std::io::Error| ShimError {
            status: Status::Failed,
            message: format!("cannot listen on {host}: {error}"),
        };
        let listener = TcpListener::bind((host, 0)).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let name = host_name(host);
        let (port, fd) = (address.port(), listener.into_raw_fd());
        let timeout_ms = milliseconds(timeout);
        // SAFETY: `name` and the out-pointer outlive the call, and the shim owns `fd` from here on.
        let raw = create(|out, message| unsafe {
            cohort_store_serve(name.as_ptr(), port, fd, timeout_ms, out, message)
        })?;
        Ok(Self { raw, address })
    }

    /// Connects to a store that another rank serves, trying again until `timeout`, which then
    /// limits every wait on its keys.
    ///
    /// # Errors
    /// Nobody answers at `address` in time.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, ShimError> {
        let name = host_name(address.ip());
        let timeout_ms = milliseconds(timeout);
        // SAFETY: `name` and the out-pointer outlive the call.
        let raw = create(|out, message| unsafe {
            cohort_store_connect(name.as_ptr(), address.port(), timeout_ms, out, message)
        })?;
        Ok(Self { raw, address })
    }

    /// What the other ranks connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: `raw` came from the shim and is freed once; groups hold references of their own.
        unsafe { cohort_store_free(self.raw.as_ptr()) }
    }
}

/// Who forms a group, and how long it may take.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Keeps the keys of groups apart that share a store, and a straggler of an earlier group out.
    pub name: String,
    pub rank: u32,
    pub world: u32,
    /// An address of this machine that the other ranks can reach.
    pub host: IpAddr,
    /// Limit of forming the group.
    pub connect_timeout: Duration,
    /// Limit of every operation.
    pub operation_timeout: Duration,
}

/// One rank's membership in a Gloo process group. Its operations block, and are for one thread at a
/// time; only [`GlooAborter`] may be used from other threads.
#[derive(Debug)]
pub struct GlooGroup {
    handle: Arc<Handle>,
    not_sync: PhantomData<Cell<()>>,
}

impl GlooGroup {
    /// Blocks until all ranks are connected to each other.
    ///
    /// # Errors
    /// A rank does not come in time.
    pub fn form(store: &TcpStore, options: &GroupOptions) -> Result<Self, ShimError> {
        let prefix = CString::new(options.name.replace('\0', "")).expect("NUL was taken out");
        let host = host_name(options.host);
        let raw_options = RawGroupOptions {
            store: store.raw.as_ptr(),
            prefix: prefix.as_ptr(),
            host: host.as_ptr(),
            rank: options.rank.cast_signed(),
            world: options.world.cast_signed(),
            connect_timeout_ms: milliseconds(options.connect_timeout),
            operation_timeout_ms: milliseconds(options.operation_timeout),
        };
        // SAFETY: the options, the strings and the store that they point to outlive the call.
        let raw = create(|out, message| unsafe {
            cohort_group_create(&raw const raw_options, out, message)
        })?;
        let handle = Arc::new(Handle {
            raw,
            aborted: AtomicBool::new(false),
        });
        Ok(Self {
            handle,
            not_sync: PhantomData,
        })
    }

    /// Replaces the tensor's elements by their sums over all ranks, in place. A tensor on the CPU,
    /// contiguous, of one shape and dtype on all ranks. After an error its content is undefined,
    /// and Gloo's thread may still write to it until the group is gone.
    pub fn all_reduce_sum(&self, tensor: &Tensor) -> Result<(), ShimError> {
        let (group, tensor) = (self.handle.raw.as_ptr(), tensor.as_ptr().cast());
        // SAFETY: the group lives as long as the handle; `tensor` is a live `at::Tensor*` for the
        // call, and c10d holds its own reference to the storage while the operation is in flight.
        call(|message| unsafe { cohort_group_all_reduce_sum(group, tensor, message) })
    }

    /// Copies the root's tensor into every rank's, in place; otherwise as `all_reduce_sum`.
    pub fn broadcast(&self, tensor: &Tensor, root: u32) -> Result<(), ShimError> {
        let (group, tensor) = (self.handle.raw.as_ptr(), tensor.as_ptr().cast());
        // SAFETY: as in `all_reduce_sum`.
        call(|message| unsafe {
            cohort_group_broadcast(group, tensor, root.cast_signed(), message)
        })
    }

    /// Blocks until all ranks are here.
    pub fn barrier(&self) -> Result<(), ShimError> {
        // SAFETY: the group lives as long as the handle.
        call(|message| unsafe { cohort_group_barrier(self.handle.raw.as_ptr(), message) })
    }

    /// Blocks, before a group in good health is dropped, until all ranks do so: Gloo resets its
    /// connections when it closes them, and a rank that still reads its last result would fail.
    pub fn farewell(&self) -> Result<(), ShimError> {
        // SAFETY: the group lives as long as the handle.
        call(|message| unsafe { cohort_group_farewell(self.handle.raw.as_ptr(), message) })
    }

    pub fn aborter(&self) -> GlooAborter {
        GlooAborter(Arc::downgrade(&self.handle))
    }
}

/// Ends a group from any thread. The operation in flight and all later ones return
/// [`Status::Aborted`]; the connections close, so that peers that wait for this rank fail at once.
/// It does not keep the group alive.
#[derive(Clone, Debug)]
pub struct GlooAborter(Weak<Handle>);

impl GlooAborter {
    pub fn abort(&self) {
        let Some(handle) = self.0.upgrade() else {
            return;
        };
        if !handle.aborted.swap(true, Ordering::SeqCst) {
            // SAFETY: the group lives as long as the handle; the shim's abort takes its own locks
            // and is made for being called while another thread is inside an operation.
            unsafe { cohort_group_abort(handle.raw.as_ptr()) }
        }
    }
}

#[derive(Debug)]
struct Handle {
    raw: NonNull<RawGroup>,
    aborted: AtomicBool,
}

// SAFETY: `raw` is a heap object without ties to a thread. Of its functions only abort is called
// from other threads than the group's owner (`GlooGroup` is not `Sync`), and abort locks.
unsafe impl Send for Handle {}
// SAFETY: as above; a shared `Handle` offers other threads nothing but abort.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    /// Joining Gloo's threads can take up to the operation timeout after an abort, for its reader
    /// only looks up then. The owner has a next generation to form, so another thread joins them.
    fn drop(&mut self) {
        let remains = Remains(self.raw);
        if *self.aborted.get_mut() {
            let spawned = thread::Builder::new()
                .name("gloo-close".into())
                .spawn(|| remains.free());
            if let Err(error) = spawned {
                // The group leaks: a machine without a thread to spare has worse to come.
                tracing::warn!(%error, "cannot start the thread that closes an aborted group");
            }
        } else {
            remains.free();
        }
    }
}

struct Remains(NonNull<RawGroup>);

// SAFETY: it is the only pointer left to a heap object without ties to a thread.
unsafe impl Send for Remains {}

impl Remains {
    fn free(self) {
        // SAFETY: `Handle::drop` makes one `Remains` of a pointer that came from the shim, when
        // nobody else holds the handle.
        unsafe { cohort_group_free(self.0.as_ptr()) }
    }
}

/// Calls a shim function that makes an object.
fn create<T>(
    function: impl FnOnce(*mut *mut T, MessageBuffer) -> i32,
) -> Result<NonNull<T>, ShimError> {
    let mut raw = null_mut();
    call(|message| function(&raw mut raw, message))?;
    Ok(NonNull::new(raw).expect("the shim sets the object whenever it reports success"))
}

fn host_name(host: IpAddr) -> CString {
    CString::new(host.to_string()).expect("an address has no NUL")
}

/// At least 1: libtorch takes 0 for "without limit".
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX)
        .max(1)
}
