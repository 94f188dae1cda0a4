"""Laws of the report: no entry vanishes, and no line says a thing twice."""

from segtune.mmseg.convert import changes_numbers, report
from segtune.mmseg.ledger import Ledger, Ref
from segtune.mmseg.nodes import Node, Place, Unresolved

HERE = Place("cfg.py", 1)


def node(value: object) -> Node:
    if isinstance(value, dict):
        return Node({name: node(part) for name, part in value.items()}, HERE)
    return Node(value, HERE)


def test_an_entry_that_is_not_carried_over_stays_if_all_its_leaves_have_entries() -> None:
    ledger = Ledger()
    root = Ref("", node({"a": {"b": 1}}), ledger)
    part = root.get("a")
    assert part
    part.leave("no such thing")
    inner = part.get("b")
    assert inner
    inner.same("the same")
    ledger.settle(root.node)
    assert (ledger.entries["a"].text, ledger.entries["a.b"].group) == ("no such thing", "same")
    assert changes_numbers(ledger)


def test_an_entry_moves_to_the_leaves_without_entries_and_is_reported_once() -> None:
    ledger = Ledger()
    root = Ref("", node({"a": {"b": 1, "c": {"d": 2}}}), ledger)
    part = root.get("a")
    assert part
    part.leave("no such thing")
    inner = part.get("b")
    assert inner
    inner.same("the same")
    ledger.settle(root.node)
    assert [(entry.key, entry.text) for entry in ledger.entries.values()] == [
        ("a.b", "the same"),
        ("a.c", "no such thing"),
    ]


def test_a_value_that_is_not_known_is_named_once_in_its_line() -> None:
    ledger = Ledger()
    root = Ref("", node({"lr": Unresolved("find()", "a call")}), ledger)
    ref = root.get("lr")
    assert ref
    ref.carry({"optim.lr": 1.0})
    ref.leave("the value is needed")
    text = "not known: find() (a call); would be optim.lr; the value is needed"
    assert ledger.entries["lr"].text == text


def test_the_last_line_has_the_verb_of_its_number() -> None:
    ledger = Ledger()
    Ref("a", node(1), ledger).leave("no such thing")
    assert report(ledger)[-1] == "0 keys carried over, 1 not, of which 1 changes the numbers"
    Ref("b", node(1), ledger).leave("no such thing")
    assert report(ledger)[-1] == "0 keys carried over, 2 not, of which 2 change the numbers"
