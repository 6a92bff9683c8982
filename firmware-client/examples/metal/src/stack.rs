//! How deep the stack has been: cortex-m-rt paints it before `main`.

use core::ptr::read_volatile;

const PAINT: u32 = 0xcccc_cccc;

unsafe extern "C" {
    static _stack_start: u32;
    static _stack_end: u32;
}

/// Bytes of the stack that were ever written.
pub fn used() -> usize {
    let (top, mut at) = (&raw const _stack_start, &raw const _stack_end);
    // SAFETY: all between the two symbols of the linker is the stack, which is memory.
    while at < top && unsafe { read_volatile(at) } == PAINT {
        at = at.wrapping_add(1);
    }
    top as usize - at as usize
}

/// Bytes that there are for it.
pub fn size() -> usize {
    &raw const _stack_start as usize - &raw const _stack_end as usize
}
