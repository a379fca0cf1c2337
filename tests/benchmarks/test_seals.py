"""The command that measures the cost of the seals."""

from benchmarks.seals import main, measure


def test_every_task_is_measured():
    costs = measure(tasks=2, epochs=1, rounds=1)
    assert len(costs) == 2
    assert 0 < costs[0].elements < costs[1].elements
    assert all(cost.share > 0 for cost in costs)


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.seals.measure", lambda: measure(tasks=1, epochs=1, rounds=1))
    main()
    assert len(capsys.readouterr().out.splitlines()) == 2
