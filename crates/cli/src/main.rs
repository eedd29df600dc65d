//! The `frontier` binary: reads the command line and the settings, runs one command, and turns whatever goes wrong
//! into one line and an exit code.
//!
//! This crate is the only place that wires the parts together. `commands/` has one file a command, `settings/` the
//! table of settings, `hub/` the store of models.

#![forbid(unsafe_code)]

mod commands;
mod device;
mod hub;
mod input;
mod load;
mod memory;
mod network;
mod numbers;
mod output;
mod problems;
mod quantize;
mod serving;
mod settings;
mod shelf;
mod stop;
mod terminal;
mod work_dir;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};

use settings::names::nearest_of;
use settings::{Loaded, SettingFlags, Settings, SettingsError, Source, defs};

#[derive(Parser, Debug)]
#[command(
    name = "frontier",
    version,
    about = "Serves language models and runs them in the terminal",
    max_term_width = 120
)]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,
    #[command(flatten)]
    settings: SettingFlags,
}

/// The exit code for a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if is_help(&error) => error.exit(),
        Err(error) => {
            eprintln!("{}", usage_error(&error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", problems::one_text(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let command = &arguments.command;
    let base = Settings::from_process(&arguments.settings);
    let Loaded { settings, warnings, errors } = match command.served_name(&base.settings) {
        Some(name) => base.settings.for_model(&name),
        None => base,
    };
    if !errors.is_empty() {
        // The log may be among what is wrong.
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        return Err(problems::with_all_others(SettingsError(errors), command, &settings).into());
    }
    start_log(&settings, command.default_log())?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if command.would_pull(&settings) {
        // It may take hours: what is wrong without it is found out before.
        SettingsError(command.problems(&settings)).into_result()?;
    }
    command.run(&settings).map_err(|error| match error.downcast::<SettingsError>() {
        Ok(found) => problems::with_all_others(found, command, &settings).into(),
        Err(other) => other,
    })
}

/// Sends the log to standard error: standard output belongs to the command's result. Logs `default` unless told.
fn start_log(settings: &Settings, default: &str) -> anyhow::Result<()> {
    let set = settings.text(&defs::LOG).filter(|_| !matches!(settings.source(&defs::LOG), Source::Default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::builder().parse(set.unwrap_or(default))?)
        .with_writer(std::io::stderr)
        // What standard error does not take would be told there, which panics: a server shall outlive its terminal
        // until its requests are done.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.text(&defs::LOG_FORMAT) {
        Some("json") => log.json().init(),
        _ => log.with_target(false).compact().init(),
    }
    Ok(())
}

/// What is wrong with the command line, and what would be right, in one line.
fn usage_error(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    // Clap's own idea of what is near to a flag is far off, and nobody means an unknown flag as a value.
    let is_flag = error.kind() == ErrorKind::UnknownArgument;
    let lines = lines.filter(|line| !is_flag || !line.starts_with("tip:"));
    let told = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let told = told.fold(String::new(), |text, line| match text.as_str() {
        "" => line.to_owned(),
        text if text.ends_with(':') => format!("{text} {line}"),
        text => format!("{text}; {line}"),
    });
    match nearest_flag(error) {
        Some(flag) => format!("{told}; the nearest known flag is {flag}"),
        None => told,
    }
}

/// The flag that is nearest to an unknown one, among those of the command and the settings.
fn nearest_flag(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut root = Arguments::command();
    root.build();
    let mut command = &root;
    for word in std::env::args().skip(1) {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    let arguments = command.get_arguments().chain(root.get_arguments());
    let flags = arguments.flat_map(|arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()));
    let flags = flags.map(|flag| (flag.to_owned(), flag.to_owned()));
    let called = defs::TABLE.iter().flat_map(|def| def.names().map(|name| (name.to_owned(), def.flag())));
    let nearest = nearest_of(unknown.split('=').next()?, flags.chain(called)).filter(|_| unknown.starts_with("--"));
    nearest.map(|flag| format!("--{flag}"))
}

/// Help that was asked for, or that is the best answer to no command at all.
fn is_help(error: &clap::Error) -> bool {
    !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// True when the reader of our output went away (`frontier list | head -1`): no failure of ours.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(io)
}
