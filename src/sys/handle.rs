//! File handles: what a directory is called by the kernel, whatever its path is (open_by_handle_at(2)).
//!
//! A handle is an inode number and a generation, so it is never given to another directory. The two calls are not in rustix or
//! nix: this is one of the places of `unsafe`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// The most bytes that a handle has (name_to_handle_at(2), `MAX_HANDLE_SZ`).
pub const BYTES_MAX: usize = 128;

/// A handle in somebody's buffer. What the bytes mean is the file system's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle<'a> {
    /// Which of the file system's forms.
    pub kind: i32,
    /// At most [`BYTES_MAX`].
    pub bytes: &'a [u8],
}

/// A handle of its own.
#[derive(Debug, Clone, Copy)]
pub struct OwnedHandle {
    kind: i32,
    length: u8,
    bytes: [u8; BYTES_MAX],
}

impl OwnedHandle {
    /// The same, borrowed.
    #[must_use]
    pub fn as_handle(&self) -> Handle<'_> {
        Handle { kind: self.kind, bytes: &self.bytes[..usize::from(self.length)] }
    }
}

/// `struct file_handle` with its flexible array at full length.
#[repr(C, align(8))]
struct Raw {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; BYTES_MAX],
}

/// The handle of an open file.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none; `EOVERFLOW` for one beyond [`BYTES_MAX`], which none has so far.
pub fn name_to_handle_at(file: impl AsFd) -> io::Result<OwnedHandle> {
    let mut raw = Raw { handle_bytes: BYTES_MAX as u32, handle_type: 0, f_handle: [0; BYTES_MAX] };
    let mut mount = 0;
    let empty: &CStr = c"";
    // SAFETY: `raw` has the layout of `struct file_handle` followed by as many bytes as `handle_bytes` says, the kernel
    // writes no further than that; the path ends with NUL; all three outlive the call.
    #[expect(unsafe_code, reason = "neither rustix nor nix has the call")]
    let done = unsafe {
        libc::name_to_handle_at(
            file.as_fd().as_raw_fd(),
            empty.as_ptr(),
            (&raw mut raw).cast::<libc::file_handle>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = u8::try_from(raw.handle_bytes).unwrap_or(u8::MAX).min(BYTES_MAX as u8);
    Ok(OwnedHandle { kind: raw.handle_type, length, bytes: raw.f_handle })
}

/// Opens a file by its handle, as a place only (`O_PATH`). `mount` is any file on its file system, opened by the mount
/// through which the new descriptor shall be.
///
/// # Errors
/// `ESTALE`: there is no such file any more; `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_by_handle_at(mount: impl AsFd, handle: Handle<'_>) -> io::Result<OwnedFd> {
    let mut raw = Raw { handle_bytes: 0, handle_type: handle.kind, f_handle: [0; BYTES_MAX] };
    let Some(space) = raw.f_handle.get_mut(..handle.bytes.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    space.copy_from_slice(handle.bytes);
    raw.handle_bytes = u32::try_from(handle.bytes.len()).unwrap_or(0);
    // SAFETY: `raw` has the layout of `struct file_handle` followed by at least `handle_bytes` bytes, which the kernel only
    // reads; it outlives the call.
    #[expect(unsafe_code, reason = "neither rustix nor nix has the call")]
    let descriptor = unsafe {
        libc::open_by_handle_at(
            mount.as_fd().as_raw_fd(),
            (&raw mut raw).cast::<libc::file_handle>(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    #[expect(unsafe_code, reason = "the call gives a number")]
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_is_found_by_its_handle_wherever_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("a/b")).unwrap();
        let handle = name_to_handle_at(fs::File::open(scratch.path().join("a/b")).unwrap()).unwrap();
        fs::rename(scratch.path().join("a"), scratch.path().join("c")).unwrap();
        let root = fs::File::open(scratch.path()).unwrap();
        match open_by_handle_at(&root, handle.as_handle()) {
            Ok(found) => {
                let path = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap();
                assert_eq!(path, scratch.path().canonicalize().unwrap().join("c/b"));
                drop(found);
                fs::remove_dir(scratch.path().join("c/b")).unwrap();
                let error = open_by_handle_at(&root, handle.as_handle()).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}"),
        }
    }

    #[test]
    fn a_handle_that_is_too_long_or_makes_no_sense_is_refused() {
        let root = fs::File::open("/").unwrap();
        for bytes in [&[7_u8; BYTES_MAX + 1][..], &[7; 8], &[]] {
            assert!(open_by_handle_at(&root, Handle { kind: 99, bytes }).is_err());
        }
    }
}
