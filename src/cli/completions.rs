//! `completions` and `man`: what a package puts beside the program.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Command, CommandFactory};
use clap_complete::{Generator as _, Shell};
use clap_mangen::Man;

use super::Cli;

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// Which shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

/// Writes the completions of a shell to standard output.
#[must_use]
pub fn run(arguments: &CompletionsArguments) -> ExitCode {
    let mut command = Cli::command();
    command.set_bin_name(command.get_name().to_owned());
    command.build();
    let mut text = Vec::new();
    report(arguments.shell.try_generate(&command, &mut text).and_then(|()| write(&text)))
}

/// Writes the manual page to standard output: one page, a section for each subcommand.
#[must_use]
pub fn manual() -> ExitCode {
    let mut text = Vec::new();
    report(render(&mut text).and_then(|()| write(&text)))
}

fn render(text: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let page = Man::new(command.clone());
    page.render_title(text)?;
    page.render_name_section(text)?;
    page.render_synopsis_section(text)?;
    page.render_description_section(text)?;
    page.render_options_section(text)?;
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        section(subcommand, text)?;
    }
    page.render_extra_section(text)?;
    page.render_version_section(text)
}

fn section(subcommand: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let page = Man::new(subcommand.clone());
    writeln!(text, ".SH {}", subcommand.get_name().to_uppercase())?;
    let mut parts = Vec::new();
    page.render_description_section(&mut parts)?;
    page.render_options_section(&mut parts)?;
    // What is a section in a page of its own is a part of one here.
    text.write_all(String::from_utf8_lossy(&parts).replace("\n.SH ", "\n.SS ").replacen(".SH ", ".SS ", 1).as_bytes())
}

fn write(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

fn report(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, `head` for example.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            super::report(&error);
            ExitCode::FAILURE
        }
    }
}
