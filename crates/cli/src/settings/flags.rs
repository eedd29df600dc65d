//! Every setting as a command-line flag, made from the table.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::defs::{Def, TABLE};
use super::value::Kind;

/// The settings given as flags. Flattened into the root command; each flag may also follow a subcommand.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingFlags {
    /// In the order of the table.
    pub(crate) values: Vec<(&'static Def, String)>,
}

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        TABLE.iter().fold(command, |command, def| command.arg(arg(def)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let given = |def: &&&'static Def| matches.value_source(def.key) == Some(clap::parser::ValueSource::CommandLine);
        self.values = TABLE
            .iter()
            .filter(given)
            .map(|def| {
                let switch = matches!(def.kind, Kind::Switch);
                let text = if switch { Some("true".to_owned()) } else { matches.get_one::<String>(def.key).cloned() };
                (*def, text.unwrap_or_default())
            })
            .collect();
        Ok(())
    }
}

fn arg(def: &'static Def) -> Arg {
    let mut help = format!("{} [env: {}]", def.doc.replace('`', ""), def.env());
    if let Some(default) = def.default.filter(|_| !matches!(def.kind, Kind::Switch)) {
        help += &format!(" [default: {default}]");
    }
    let arg = Arg::new(def.key)
        .long(def.flag())
        .help(help)
        .help_heading(format!("Settings: {}", def.group))
        .global(true)
        .hide_short_help(true);
    let arg = match def.flag_alias() {
        Some(alias) => arg.visible_alias(alias),
        None => arg,
    };
    match def.kind {
        Kind::Switch => arg.action(ArgAction::SetTrue),
        _ => arg.action(ArgAction::Set).value_name(def.kind.placeholder()).allow_hyphen_values(true),
    }
}
