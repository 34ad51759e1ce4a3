"""Synthetic people with planted spine ages: drawn and scanned like real ones, and obviously not real."""

from spineage.science.phantom.population import Exam, Person, draw_population
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.render import Rendered, render

__all__ = ["Exam", "Person", "PhantomRecipe", "Rendered", "draw_population", "render"]
