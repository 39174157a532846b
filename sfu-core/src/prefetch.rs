//! Asking for memory before it is needed.
//!
//! A core has thousands of subscribers and each is cold when its turn comes: what the walk over them waits for is memory.
#![allow(unsafe_code)]

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has the processor bring `what` into its cache: a hint, without effect on what the program does. What `what` points to
/// does not come along.
#[inline(always)]
pub fn prefetch<T>(what: &T) {
    let start = std::ptr::from_ref(what).cast::<i8>();
    let mut at = 0;
    while at < size_of::<T>() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch accesses nothing, whatever the address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(start.wrapping_add(at));
        }
        at += LINE;
    }
}
