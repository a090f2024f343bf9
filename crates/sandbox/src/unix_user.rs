//! The user that the servers run as: PostgreSQL refuses root, so if the caller is root they run as an ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{User, geteuid};

/// An ordinary user that servers run as when the caller is root.
#[derive(Clone, Debug)]
pub(crate) struct UnixUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl UnixUser {
    /// None when the caller is not root: then the servers run as the caller.
    pub(crate) fn for_servers() -> Result<Option<UnixUser>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Some(UnixUser { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        bail!("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as")
    }

    /// Refuses a folder that the user cannot reach because it may not enter a folder above.
    fn check_access(&self, folder: &Path) -> Result<()> {
        for ancestor in folder.ancestors() {
            let metadata = fs::metadata(ancestor).with_context(|| format!("cannot look at {}", ancestor.display()))?;
            let enter = if metadata.uid() == self.uid {
                0o100
            } else if metadata.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & enter == 0 {
                bail!(
                    "{} cannot be used: PostgreSQL does not run as root, and the user `{}` that it runs as may not enter {} (mode {:04o}); \
                     keep the data elsewhere, for example below /var/lib, or run as an ordinary user",
                    folder.display(),
                    self.name,
                    ancestor.display(),
                    metadata.mode() & 0o7777
                );
            }
        }
        Ok(())
    }

    fn own(&self, path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        if metadata.uid() != self.uid && !metadata.is_symlink() {
            chown(path, Some(self.uid), Some(self.gid)).with_context(|| format!("cannot chown {}", path.display()))?;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }
}

/// Whether servers can use `folder` (which exists). The error names the folder that the user may not enter.
pub(crate) fn check_access(user: Option<&UnixUser>, folder: &Path) -> Result<()> {
    match user {
        Some(user) => user.check_access(folder),
        None => Ok(()),
    }
}

/// Makes a folder of files that servers read, such as keys, belong to the user that they run as.
pub fn give_to_servers(folder: &Path) -> Result<()> {
    give_folder(UnixUser::for_servers()?.as_ref(), folder)
}

/// Makes `folder` (created if missing) and everything in it belong to the user that the server runs as.
pub(crate) fn give_folder(user: Option<&UnixUser>, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if let Some(user) = user {
        return user.own(folder);
    }
    let owner_uid = fs::metadata(folder)?.uid();
    if owner_uid != geteuid().as_raw() {
        bail!(
            "{} belongs to user {owner_uid}, probably because the sandbox ran as root before; remove it or run as root again",
            folder.display()
        );
    }
    Ok(())
}

/// Makes `command` run as the user, without our supplementary groups.
pub(crate) fn run_as(user: Option<&UnixUser>, command: &mut Command) {
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
}
