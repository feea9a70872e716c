//! The allocator of the process.

/// The system's allocator gives large buffers back after every tensor operation and fetches zeroed pages again for the
/// next, which cost a quarter of the time of training with a vocabulary of 152k.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory that was freed goes back to the system after some seconds rather than at once, unless `MIMALLOC_PURGE_DELAY` says
/// otherwise: every update frees its gradients, and the next one asks for as much again. At half a billion parameters a
/// quarter of a step went into pages that the system cleared.
pub fn keep_freed_memory() {
    /// `mi_option_purge_delay` of mimalloc.h, in milliseconds.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number that the allocator looks up.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 10_000) };
}
