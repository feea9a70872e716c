//! Memory for results.

use std::mem::MaybeUninit;

/// `len` numbers that `write` writes; they are not cleared before.
///
/// # Safety
/// `write` must write all of them.
pub(super) unsafe fn written(len: usize, write: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    prefer_huge_pages(room);
    write(room);
    // SAFETY: `write` has written all of them, which the caller promises.
    unsafe { values.set_len(len) };
    values
}

/// `len` zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    // SAFETY: all are filled.
    unsafe { written(len, |room| room.fill(MaybeUninit::new(0.0))) }
}

/// Asks for large room in huge pages. The system clears each page when it is first touched, and takes longer over two
/// megabytes in small pages than a matrix product over what they hold.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(room: &mut [MaybeUninit<f32>]) {
    /// In bytes.
    const LARGE: usize = 4 << 20;
    /// The largest of the sizes that pages have.
    const PAGE: usize = 1 << 16;
    if size_of_val(room) < LARGE {
        return;
    }
    let (start, end) = (room.as_mut_ptr_range().start as usize, room.as_mut_ptr_range().end as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    // SAFETY: whole pages of our own; the advice changes nothing about what they hold. It may be refused.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_: &mut [MaybeUninit<f32>]) {}
