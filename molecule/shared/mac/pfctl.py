#!/usr/bin/env python3
"""pfctl: the rules of anchors, and whether the packet filter is enabled. It filters nothing.

Rules are read by the grammar of what the roles write, and refused where they are not of it; a table has to be defined
before a rule names it. What is loaded and whether it is enabled are gone after a boot, as on a Mac: a test that boots
one removes `pfctl.json`.
"""

import ipaddress
import re
import sys
from pathlib import Path
from typing import Any

import mac
from mac import ToolError, say

USAGE = "usage: pfctl [-deEgnqv] [-a anchor] [-F modifier] [-f file] [-s modifier]"
TABLE = re.compile(r"table <(?P<name>[A-Za-z0-9_]{1,31})> (?:const |persist )*\{ ?(?P<addresses>[^{}]*?) ?\}")
RULE = re.compile(
    r"(?P<action>pass|block(?: drop| return)?) in quick(?: on (?P<interface>[a-z]+[0-9]+))? proto tcp"
    r" from (?:any|<(?P<table>\w+)>) to any port \{ ?(?P<ports>[^{}]*?) ?\}(?P<flags> flags any)?(?P<state> no state)?"
    r' label "(?P<label>[^"]{1,63})"'
)


def words(text: str) -> list[str]:
    return [word for word in re.split(r"[ ,]+", text) if word]


def table_problem(match: re.Match[str], tables: set[str]) -> str:
    """Return what is wrong with a table; it is known from then on."""
    tables.add(match["name"])
    for word in words(match["addresses"]):
        try:
            ipaddress.ip_network(word.removeprefix("!"), strict=False)
        except ValueError:
            return f"no IP address found for {word}"
    return ""


def rule_problem(rule: re.Match[str] | None, tables: set[str]) -> str:
    """Return what is wrong with a rule, as far as pfctl would say."""
    if rule is None or not words(rule["ports"]):
        return "syntax error"
    if rule["action"] != "pass" and (rule["flags"] or rule["state"]):
        return "keep state on block rules doesn't make sense"
    if rule["table"] and rule["table"] not in tables:
        return f"table <{rule['table']}> is not defined"  # the real one takes it, and lets nobody in
    wrong = [word for word in words(rule["ports"]) if not is_port(word)]
    return f"invalid port {wrong[0]}" if wrong else ""


def is_port(word: str) -> bool:
    """Return whether it is a port, or a range of them."""
    numbers = [int(number) for number in re.findall(r"\d+", word)]
    return bool(re.fullmatch(r"\d+(:\d+)?", word)) and max(numbers) <= 65535 and numbers == sorted(numbers)


def parse(file: str) -> list[str]:
    """Return the rules of a file, each as a line; refuse the file as pfctl does, with the number of the line."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError as error:
        raise ToolError(1, f"pfctl: {file}: {error.strerror}") from None
    tables: set[str] = set()
    rules = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        table = TABLE.fullmatch(text)
        said = table_problem(table, tables) if table else rule_problem(RULE.fullmatch(text), tables)
        if said:
            raise ToolError(1, f"{file}:{number}: {said}\npfctl: Syntax error in config file: pf rules not loaded")
        if not table:
            rules.append(text)
    return rules


def shown(rule: str) -> list[str]:
    """Return a rule as it is shown: one for each port."""
    match = RULE.fullmatch(rule)
    assert match is not None
    ports = words(match["ports"])
    head, tail = rule[: match.start("ports")].rpartition("{")[0], rule[match.end("ports") :].partition("}")[2]
    return [f"{head}{'= ' if ':' not in port else ''}{port}{tail}" for port in ports]


def read_options(arguments: list[str]) -> tuple[set[str], dict[str, str]]:
    """Return the letters, and the values of those that take one."""
    letters, values, rest = set(), {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not re.fullmatch(r"-[A-Za-z]+", word):
            raise ToolError(1, USAGE)
        for place, letter in enumerate(word[1:], 2):
            if letter in "aFfs":
                value = word[place:] or (rest.pop(0) if rest else "")
                if not value:
                    raise ToolError(1, f"pfctl: option requires an argument -- {letter}\n{USAGE}")
                values[letter] = value
                break
            if letter not in "deEnqv":
                raise ToolError(1, f"pfctl: illegal option -- {letter}\n{USAGE}")
            letters.add(letter)
    return letters, values


def main(arguments: list[str]) -> None:
    letters, values = read_options(arguments)
    if not letters and not values:
        raise ToolError(1, USAGE)
    rules = parse(values["f"]) if "f" in values else None
    if "n" in letters:
        return
    if not mac.is_root():
        raise ToolError(1, "pfctl: /dev/pf: Permission denied")
    state: dict[str, Any] = {"enabled": False, "references": 0, "anchors": {}, **mac.read("pfctl", {})}
    anchor = values.get("a", "")
    if values.get("F") in ("rules", "all"):
        state["anchors"].pop(anchor, None)
        sys.stderr.write("rules cleared\n")
    if rules is not None:
        state["anchors"][anchor] = rules
    switch(letters, state)
    mac.keep("pfctl", state)
    if "s" in values:
        sys.stderr.write("No ALTQ support in kernel\nALTQ related functions disabled\n")
        show(values["s"], state["anchors"].get(anchor, []), state)


def switch(letters: set[str], state: dict[str, Any]) -> None:
    """Enable or disable it: -E takes one reference more each time, and -d ends them all."""
    if "d" in letters:
        state.update(enabled=False, references=0)
        sys.stderr.write("pf disabled\n")
    if "e" in letters and state["enabled"]:
        raise ToolError(1, "pfctl: pf already enabled")
    if letters & {"e", "E"}:
        state.update(enabled=True, references=state["references"] + 1)
        sys.stderr.write("pf enabled\n" + (f"Token : {state['references']}\n" if "E" in letters else ""))


def show(what: str, rules: list[str], state: dict[str, Any]) -> None:
    """Print a part of what it knows."""
    match what:
        case "rules":
            say(*(line for rule in rules for line in shown(rule)))
        case "info":
            say(f"Status: {'Enabled for 0 days 00:00:01' if state['enabled'] else 'Disabled'}           Debug: Urgent")
        case "References":
            say(str(state["references"]))
        case _:
            raise ToolError(1, f"pfctl: Unknown show modifier '{what}'\n{USAGE}")


if __name__ == "__main__":
    mac.run("pfctl", main)
