//! What the process does with memory that it has freed.
#![allow(unsafe_code, reason = "the allocator's settings are foreign functions")]

/// Keeps freed memory for the next allocation.
///
/// glibc gives every large block back to the system, and the next one of its kind costs a page fault for each 4 kB again:
/// with tensors of tens of megabytes, made and dropped in every layer, that was a fifth of a prediction. Other systems'
/// allocators are left as they are.
pub(crate) fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the function takes two numbers, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
