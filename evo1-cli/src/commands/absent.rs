//! Commands that this build lacks: they stay in the list, and say which feature brings them.

/// Puts modules in the place of those of the commands of a feature. Such a command takes any arguments and refuses them.
macro_rules! absent {
    ($feature:literal: $($module:ident::$command:ident $(<$components:ident>)? ($($common:ty)?)),+) => {
        $(
            pub(crate) mod $module {
                use std::ffi::OsString;

                use eyre::{Result, bail};

                #[derive(clap::Args)]
                #[command(about = concat!("Not in this build: it needs the feature `", $feature, "`"))]
                pub(crate) struct $command {
                    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
                    _arguments: Vec<OsString>,
                }

                impl $command {
                    #[allow(clippy::extra_unused_type_parameters, reason = "it is called as the command is")]
                    pub(crate) fn run$(<$components: evo1::Components>)?(self $(, _: $common)?) -> Result<()> {
                        bail!(
                            "this build has no `evo1 {}`: build with `--features {}`",
                            stringify!($module),
                            $feature
                        )
                    }
                }
            }
        )+
    };
}

#[cfg(not(all(feature = "ablate", feature = "serve")))]
pub(super) use absent;

#[cfg(test)]
mod tests {
    use clap::Parser;

    absent!("pair": left::Left(), right::Right(&str));

    #[derive(Parser)]
    enum Commands {
        Left(left::Left),
        Right(right::Right),
    }

    #[test]
    fn any_arguments_are_taken_and_the_feature_is_named() {
        for arguments in [&["evo1", "left"][..], &["evo1", "right", "a", "--config", "b", "-c", "--", "d"]] {
            let (command, done) = match Commands::try_parse_from(arguments).expect("any arguments") {
                Commands::Left(left) => ("left", left.run()),
                Commands::Right(right) => ("right", right.run("")),
            };
            let message = done.expect_err("it is absent").to_string();
            assert_eq!(message, format!("this build has no `evo1 {command}`: build with `--features pair`"));
        }
    }
}
