//! Memory of this process and of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The most memory that this process has had resident so far, in bytes; `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// How much more memory this process can take, in bytes: what is available of the machine's, swap included, and within the
/// limits of its control groups. `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    available(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available(proc: &Path, groups: &Path) -> Option<u64> {
    let machine = fs::read_to_string(proc.join("meminfo")).ok()?;
    let machine = kibibytes(&machine, "MemAvailable:")? + kibibytes(&machine, "SwapFree:").unwrap_or(0);
    let own = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    own.lines().filter_map(|line| free_of_group(groups, line)).chain([machine]).min()
}

/// What is left of the narrowest limit of a control group and those around it, which a line of `/proc/self/cgroup` names.
fn free_of_group(groups: &Path, line: &str) -> Option<u64> {
    let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>().try_into().ok()?;
    let is_memory = controllers.split(',').any(|controller| controller == "memory");
    let (root, limit, usage, cache) = match controllers {
        "" => (groups.to_owned(), "memory.max", "memory.current", "inactive_file "),
        _ if is_memory => {
            (groups.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        }
        _ => return None,
    };
    let free = |folder: PathBuf| {
        let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        let (limit, usage) = (number(limit)?, number(usage)?);
        // Copies of files, which give way.
        let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cache = statistics.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(cache)))
    };
    Path::new(path).ancestors().filter_map(|group| free(root.join(group.strip_prefix("/").ok()?))).min()
}

/// The number of bytes that a line gives in kB.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "MemTotal:  64 kB\nMemAvailable:  40 kB\nSwapFree:   8 kB\n";

    fn write(folder: &Path, file: &str, text: &str) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn the_narrowest_of_all_limits_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let [proc, groups] = ["proc", "groups"].map(|name| folder.path().join(name));
        assert_eq!(available(&proc, &groups), None);
        write(&proc, "meminfo", MACHINE);
        assert_eq!(available(&proc, &groups), Some(48 << 10));
        write(&proc, "self/cgroup", "1:cpu:/\n0::/user/job\n");
        write(&groups, "user/job/memory.max", "max\n");
        assert_eq!(available(&proc, &groups), Some(48 << 10));
        // The limit of a group around it, without copies of files.
        write(&groups, "user/memory.max", "20480\n");
        write(&groups, "user/memory.current", "16384\n");
        write(&groups, "user/memory.stat", "anon 1\ninactive_file 4096\n");
        assert_eq!(available(&proc, &groups), Some(8 << 10));
        // As systems had them before.
        write(&proc, "self/cgroup", "4:memory:/job\n");
        write(&groups, "memory/job/memory.limit_in_bytes", "9000\n");
        write(&groups, "memory/job/memory.usage_in_bytes", "8000\n");
        assert_eq!(available(&proc, &groups), Some(1000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        assert!(available_memory().is_some_and(|bytes| bytes > 0) && peak_memory().is_some_and(|bytes| bytes > 0));
    }
}
