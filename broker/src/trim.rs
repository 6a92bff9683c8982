//! Start-up code does not stay in memory.
//!
//! The system maps a program's code 64 KB at a time around what is touched, and start-up (arguments, configuration, recovery,
//! TLS keys) touches nearly all of it: 4 of 5 MB, of which an idle broker needs less than one. The pages are the file's, so
//! the system could take them back, but on a board with little memory it takes pages that look unused first.

#![allow(unsafe_code, reason = "one call, with its proof beside it; measured in docs/benchmarks.md")]

/// Gives the program's own code pages back; what is needed is mapped again when it runs. Does nothing where the system cannot
/// say where the code lies.
#[cfg(target_os = "linux")]
pub fn start_up_code() {
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::env::current_exe()) else { return };
    let code = maps.lines().filter_map(|line| code_of(line, &program.to_string_lossy()));
    for (start, len) in code {
        // SAFETY: the range is one whole mapping of this program's file, private, executable and not writable (`r-xp`), so
        // each of its pages is the file's own content: there are no text relocations, and nobody can have written to it. A
        // page that is dropped is read from the same file again at its next use; the kernel does not let a running program's
        // file be written to (ETXTBSY).
        let dropped = unsafe {
            rustix::mm::madvise(std::ptr::with_exposed_provenance_mut(start), len, rustix::mm::Advice::LinuxDontNeed)
        };
        if let Err(error) = dropped {
            tracing::debug!("the code of the start stays in memory: {error}");
        }
    }
}

/// Elsewhere the code stays.
#[cfg(not(target_os = "linux"))]
pub fn start_up_code() {}

/// Start and length, if the line of `/proc/self/maps` is a mapping of the program's code.
#[cfg(target_os = "linux")]
fn code_of(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    let path = line.find('/').and_then(|at| line.get(at..))?;
    if permissions != "r-xp" || path != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_code_is_found() {
        let line = |permissions: &str, path: &str| format!("1000-3000 {permissions} 00014000 fe:00 1234     {path}");
        assert_eq!(code_of(&line("r-xp", "/usr/bin/forebay"), "/usr/bin/forebay"), Some((0x1000, 0x2000)));
        for (permissions, path) in
            [("r--p", "/usr/bin/forebay"), ("rwxp", "/usr/bin/forebay"), ("r-xp", "/lib/libc.so")]
        {
            assert_eq!(code_of(&line(permissions, path), "/usr/bin/forebay"), None);
        }
        assert_eq!(code_of("7ff0-7ff1 r-xp 0 0:0 0 [vdso]", "/usr/bin/forebay"), None);
    }

    #[test]
    fn the_program_goes_on_without_them() {
        start_up_code();
        assert_eq!("still here".len(), 10);
    }
}
