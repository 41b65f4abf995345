"""A CSV becomes an Excel workbook with a chart. Sessions need `openpyxl`, which Azure's have."""

from pathlib import Path

from cci_plugins.sync import CodeInterpreter

DATA = Path(__file__).with_name("data") / "penguins.csv"
CODE = """
import csv
from collections import defaultdict
from statistics import mean
from openpyxl import Workbook, load_workbook
from openpyxl.chart import BarChart, Reference

mass = defaultdict(list)
for row in csv.DictReader(open('penguins.csv')):
    if row['body_mass_g'].isdigit():
        mass[row['species']].append(int(row['body_mass_g']))

book = Workbook()
sheet = book.active
sheet.append(['species', 'birds', 'mean mass (g)'])
for species, values in sorted(mass.items()):
    sheet.append([species, len(values), round(mean(values), 1)])
chart = BarChart()
chart.add_data(Reference(sheet, min_col=3, min_row=1, max_row=4), titles_from_data=True)
chart.set_categories(Reference(sheet, min_col=1, min_row=2, max_row=4))
sheet.add_chart(chart, 'E2')
book.save('penguins.xlsx')
for row in load_workbook('penguins.xlsx').active.values:
    print(*row)
"""

with CodeInterpreter.from_env() as interpreter:
    session = interpreter.session("alice")
    session.files.upload(DATA)
    execution = session.run_code(CODE)
    if execution.error and execution.error.name == "ModuleNotFoundError":
        raise SystemExit(f"error: {execution.error.message}\n\nhint: pip install openpyxl")
    execution.raise_for_error()
    print(execution.stdout, end="")
    print("saved", session.files.download("penguins.xlsx", to="out/", overwrite=True))
