//! Asking for memory before it is needed.
//!
//! A worker handles thousands of clients in turn and each is cold when its turn comes; what it waits for is memory.
#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has the processor bring `what` into its cache; a hint without effect on what the program does.
pub(super) fn fetch<T>(what: &T) {
    let start = std::ptr::from_ref(what).cast::<i8>();
    for at in (0..size_of::<T>()).step_by(LINE) {
        let line = start.wrapping_add(at);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch accesses nothing, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}
