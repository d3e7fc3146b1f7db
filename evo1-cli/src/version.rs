//! What `evo1 --version` says.

use std::sync::LazyLock;

use evo1_bench::Provenance;

/// Features of this crate that are no devices, and whether this build has them.
const FEATURES: [(&str, bool); 9] = [
    ("data", cfg!(feature = "data")),
    ("train", cfg!(feature = "train")),
    ("serve", cfg!(feature = "serve")),
    ("ablate", cfg!(feature = "ablate")),
    ("hub", cfg!(feature = "hub")),
    ("av1-asm", cfg!(feature = "av1-asm")),
    ("ffmpeg", cfg!(feature = "ffmpeg")),
    ("rerun", cfg!(feature = "rerun")),
    ("mpi", cfg!(feature = "mpi")),
];

/// Version, commit, features, and what this machine's processor can do: the first things to know of a run that is strange.
pub(crate) fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let Provenance { version, commit, burn, features: devices, build, processor, instructions, system } =
            Provenance::here();
        let commit = commit.as_deref().unwrap_or("unknown: no release build from a clone");
        let others = FEATURES.into_iter().filter(|(_, is_built)| *is_built).map(|(name, _)| name.to_owned());
        let features = devices.into_iter().chain(others).collect::<Vec<_>>().join(" ");
        let processor = processor.as_deref().unwrap_or("unknown");
        format!(
            "{version}\ncommit        {commit}\nbuild         {build}, {system}, burn {burn}\nfeatures      {features}\n\
             processor     {processor}\ninstructions  {instructions}"
        )
    });
    &TEXT
}
