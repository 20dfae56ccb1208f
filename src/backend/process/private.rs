//! Folders that only their owner may read: they hold conversations and what tools have written.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Creates a folder and its missing parents for their owner only, if it is not there.
///
/// # Errors
/// If it cannot be made, or exists and others have access: that may be on purpose, so the mode is not changed.
pub fn create(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let advice = "make it writable, or choose another state directory";
        io::Error::new(error.kind(), format!("{error}; {advice}"))
    })?;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let problem = format!("others may look into it (mode {:o}): chmod 700 {}", mode & 0o7777, path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_folder_and_its_missing_parents_are_created_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create(&path).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o700, 0o700));
        create(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_look_into_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path).unwrap();
        for wide in [0o750, 0o755, 0o701, 0o2770, 0o1777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
            let error = create(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {wide:o}")), "{error}");
            assert!(error.ends_with(&format!("chmod 700 {}", path.display())), "{error}");
            assert_eq!(mode(&path), wide);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        create(&path).unwrap();
    }
}
