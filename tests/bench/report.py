"""Tables from results, on the terminal and between the markers of the documentation."""
import re
import statistics
from pathlib import Path

LAST = "<!-- end -->"


def given(samples, key):
    return [sample[key] for sample in samples if sample and key in sample]


def middle(values):
    return statistics.median(values) if values else None


def spread(values, form):
    return f"{form.format(min(values))} to {form.format(max(values))}"


def times_of(samples, reference, invert):
    """The median of the ratios round by round."""
    both = [(one["seconds"], other["seconds"]) for one, other in zip(samples, reference) if one and other]
    return middle([other / one if invert else one / other for one, other in both])


def timed_row(case, name, samples):
    seconds = given(samples, "seconds")
    mid, reference = middle(seconds), case["reference"]
    ratio = "" if name == reference else "{:.2f}".format(
        times_of(samples, case["rows"][reference], case["ratio"] == "row") or float("nan"))
    if case["unit"] == "ms":
        return [name, f"{mid * 1000:.0f} ms", spread([s * 1000 for s in seconds], "{:.0f}"), ratio]
    rate = f"{case['amount'] / mid:,.0f} {case['unit']}/s" if case["unit"] == "files" else f"{case['amount'] / mid:.1f} MB/s"
    return [name, f"{mid:.2f} s", spread(seconds, "{:.2f}"), rate, ratio]


def timed(case):
    ratio = (f"{case['reference']} is … times as fast" if case["ratio"] == "ours"
             else f"times as fast as {case['reference']}")
    rate = [] if case["unit"] == "ms" else ["rate"]
    head = ["", "median", "least to most", *rate, ratio]
    return head, [timed_row(case, name, samples) for name, samples in case["rows"].items() if given(samples, "seconds")]


def memory(case):
    head = ["file", "sender, MiB", "least to most", "receiver, MiB", "least to most"]
    rows = []
    for name, samples in case["rows"].items():
        row = [name]
        for side in ("peak_sender_mib", "peak_receiver_mib"):
            values = given(samples, side)
            row += [f"{middle(values):.0f}", spread(values, "{:.0f}")]
        rows.append(row)
    return head, rows


def cpu(case):
    head = ["", "sender", "receiver", "both", "least to most", f"times what {case['reference']} takes"]
    rows = []

    def both(sample):
        return (sample["cpu_sender"] + sample["cpu_receiver"]) / case["amount"]

    for name, samples in case["rows"].items():
        values = [both(sample) for sample in samples if sample]
        if not values:
            continue
        sides = [f"{middle(given(samples, side)) / case['amount']:.2f}" for side in ("cpu_sender", "cpu_receiver")]
        pairs = [(both(a), both(b)) for a, b in zip(samples, case["rows"][case["reference"]]) if a and b]
        ratio = "" if name == case["reference"] else f"{middle([a / b for a, b in pairs]):.2f}"
        rows.append([name, *sides, f"{middle(values):.2f}", spread(values, "{:.2f}"), ratio])
    return head, rows


def table(case):
    """Head and rows of a case, as text."""
    return {"memory": memory, "cpu": cpu}.get(case["ratio"], timed)(case)


def plain(case):
    head, rows = table(case)
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = ["  ".join(cell.ljust(width) if at == 0 else cell.rjust(width)
                       for at, (cell, width) in enumerate(zip(row, widths))) for row in [head, *rows]]
    skipped = [f"skipped: {name}: {why}" for name, why in case["skipped"].items()]
    return "\n".join([case["title"], *lines, *skipped])


def markdown(case):
    head, rows = table(case)
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] + ["---:"] * (len(head) - 1), *rows]]
    used = ", ".join(f"{name} {version}" for name, version in sorted(case["versions"].items()) if used_in(name, case))
    note = f"{case['title']}. {case['rounds']} rounds, {case['date'][:10]}; {used}."
    if "machine" in case:
        note += f" On {machine(case['machine'])}"
    note += "".join(f" Not measured: {name} ({why})." for name, why in case["skipped"].items())
    return "\n".join([note, "", *lines])


def used_in(program, case):
    """Whether a program has a row in a case; p2p-node is in all of them."""
    names = " ".join(name for name, samples in case["rows"].items() if any(samples)).lower()
    return program == "p2p-node" or program in names or (program == "mktorrent" and "libtorrent" in names)


def duration(nanoseconds):
    for unit, size in (("ns", 1), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        if nanoseconds < 1000 * size or unit == "s":
            return f"{nanoseconds / size:.3g} {unit}"
    return ""


def parts(found):
    """What criterion measured of the parts alone; of those that count what they do, for each."""
    lines = ["| part | time | |", "| --- | ---: | ---: |"]
    for name, row in found["rows"].items():
        rate = f"{row['bytes'] / row['ns']:.2f} GB/s" if "bytes" in row else ""
        each = row["ns"] / row.get("elements", 1)
        lines.append(f"| {name.replace('/', ': ', 1)} | {duration(each)} | {rate} |")
    return "\n".join([f"{found['date'][:10]}, p2p-node {found['version']}; {machine(found['machine'])}", "", *lines])


def machine(facts):
    return (f"{facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB of memory, {facts['filesystem']}, "
            f"Linux {facts['kernel']}.")


def rewrite(document, results):
    """Puts the tables between the markers of a document: `<!-- results: NAME -->` and `<!-- end -->`."""
    path = Path(document)
    text = path.read_text()
    for name in re.findall(r"<!-- results: ([a-z-]+) -->", text):
        start = f"<!-- results: {name} -->\n"
        if name == "machine":
            body = machine(results["machine"])
        elif name == "parts" and "parts" in results:
            body = parts(results["parts"])
        elif name in results["cases"]:
            body = markdown(results["cases"][name])
        else:
            body = "Not measured yet."
        pattern = re.escape(start) + ".*?" + re.escape(LAST)
        text = re.sub(pattern, lambda _: f"{start}{body}\n{LAST}", text, count=1, flags=re.S)
    path.write_text(text)
