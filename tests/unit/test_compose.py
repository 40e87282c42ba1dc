"""The compose file runs every program of the local stack, by commands and settings that there are."""

from __future__ import annotations

from typing import Any

import click
import pytest
import yaml

from agentledger.infra.cli import cli
from agentledger.infra.local_stack import NOTIFY, PROGRAMS, SIGNER
from agentledger.infra.settings import Settings
from tests.running_stack import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose.yaml").read_text("utf-8"))
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
SETTINGS = {f"AGENTLEDGER_{name.upper()}" for name in Settings.model_fields}


def test_each_program_has_a_container() -> None:
    programs = {tuple(program.args) for program in (*PROGRAMS, SIGNER, NOTIFY)}
    assert {tuple(service["command"]) for service in OURS.values()} == programs | {("init",)}


@pytest.mark.parametrize("name", OURS)
def test_its_command_its_settings_and_its_volumes_are_there(name: str) -> None:
    service = OURS[name]
    arguments = list(service["command"])
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), arguments.pop(0))
        assert found is not None
        command = found
    assert command.make_context(name, arguments).params is not None  # every option is one
    assert set(service["environment"]) <= SETTINGS
    assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_nothing_listens_beyond_this_machine(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name].get("ports", []))


def test_what_a_container_keeps_is_a_folder_of_the_image_that_its_user_may_write() -> None:
    made = (ROOT / "infra/Dockerfile").read_text("utf-8")
    folders = {volume.partition(":")[2] for service in OURS.values() for volume in service.get("volumes", [])}
    assert folders
    assert all(folder in made for folder in folders)
