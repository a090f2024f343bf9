//! Who the servers run as: PostgreSQL refuses root, so a caller who is root lends its servers to an ordinary account.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::{User, geteuid};

/// An ordinary account that servers run as when the caller is root.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account to lend servers to, or nothing when the caller is not root and simply runs them itself.
    pub(crate) fn for_servers() -> Result<Option<Account>> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name)? {
                return Ok(Some(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
            }
        }
        bail!("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody` to run it as")
    }

    /// Refuses a folder that the account cannot reach because a folder above it is closed.
    fn check_reaches(&self, folder: &Path) -> Result<()> {
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

/// Whether servers can live in `folder` (which exists): refuses, naming the folder that is in the way.
pub(crate) fn check_reaches(account: Option<&Account>, folder: &Path) -> Result<()> {
    match account {
        Some(account) => account.check_reaches(folder),
        None => Ok(()),
    }
}

/// Makes `folder` (created if missing) and all that is in it belong to whoever the server runs as.
pub(crate) fn give(account: Option<&Account>, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    if let Some(account) = account {
        return account.own(folder);
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

/// Lets `command` run as the account. Its supplementary groups go as well.
pub(crate) fn lend(account: Option<&Account>, command: &mut Command) {
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
}
