"""The demo's questions, and the script of the model that the demo uses without a key."""

from __future__ import annotations

from cci_plugins.testing import Script, Turn

HEAVIEST = Turn(
    question="Which species of penguin is the heaviest on average?",
    code="""\
import pandas as pd

penguins = pd.read_csv("penguins.csv")
mean_mass = penguins.groupby("species")["body_mass_g"].mean().sort_values(ascending=False)
print(mean_mass.round(1).to_string())""",
    found=r"(?P<species>Adelie|Chinstrap|Gentoo)\s+(?P<grams>\d+\.\d)",
    answer="{species} penguins are the heaviest: {grams} g on average.",
)
DIFFERENCE = Turn(
    question="Show that as a bar chart. How much heavier are they than the lightest species?",
    code="""\
import matplotlib.pyplot as plt

ax = mean_mass.plot.bar(color=["#ff8c00", "#a034f0", "#159090"], rot=0)
ax.set(title="Mean body mass of Palmer penguins", xlabel="", ylabel="body mass (g)")
ax.bar_label(ax.containers[0], fmt="%.0f")
plt.show()
print(f"difference: {mean_mass.max() - mean_mass.min():.1f} g")""",
    found=r"difference: (?P<grams>\d+\.\d) g",
    answer="The chart is ready. They are {grams} g heavier than the lightest species.",
)
CORRELATION = Turn(
    question="How closely do flipper length and body mass go together?",
    code="""\
import pandas as pd

measured = pd.read_csv("penguins.csv").dropna(subset=["flipper_length_mm", "body_mass_g"])
r = measured["flipper_length_mm"].corr(measured["body_mass_g"])
print(f"r = {r:.3f} over {len(measured)} birds")""",
    found=r"r = (?P<r>\d\.\d+) over (?P<birds>\d+) birds",
    answer="Very closely: the correlation is {r}, over {birds} birds.",
)
PREDICTION = Turn(
    question="Fit a line, plot it, and tell me the mass it predicts for a flipper of 210 mm.",
    code="""\
import matplotlib.pyplot as plt
import numpy as np

x, y = measured["flipper_length_mm"], measured["body_mass_g"]
slope, intercept = np.polyfit(x, y, 1)
fig, ax = plt.subplots()
ax.scatter(x, y, s=14, alpha=0.5, color="#159090")
ends = np.array([x.min(), x.max()])
ax.plot(ends, slope * ends + intercept, color="#ff8c00", linewidth=2)
ax.set(title=f"r = {r:.2f}", xlabel="flipper length (mm)", ylabel="body mass (g)")
plt.show()
print(f"predicted: {slope * 210 + intercept:.0f} g")""",
    found=r"predicted: (?P<grams>\d+) g",
    answer="The line predicts {grams} g for a flipper of 210 mm.",
)
SCRIPT = Script((HEAVIEST, DIFFERENCE, CORRELATION, PREDICTION))
