//! Ending a process whose compute thread may be inside an operation.

#![expect(unsafe_code, reason = "calls the C++ shim")]

unsafe extern "C" {
    fn cohort_process_leave(code: i32);
}

/// Ends the process at once. Returning from `main` would run libtorch's static destructors under
/// the compute thread, which then dies of a segmentation fault instead of the exit code.
pub fn leave(code: i32) -> ! {
    // SAFETY: the function takes a number, and `_Exit` of the C standard library may be called at
    // any time from any thread.
    unsafe { cohort_process_leave(code) };
    unreachable!("the process has ended");
}
