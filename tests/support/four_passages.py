"""Four passages, and a question for each whose words do not occur in it."""

PASSAGES = [
    "Kittens purr when they are stroked.",
    "The central bank raised interest rates to fight inflation.",
    "Bread rises because yeast gives off gas in the dough.",
    "The telescope photographed a distant galaxy.",
]
QUESTIONS = {
    "Which young animal makes a contented sound?": 0,
    "What was done against rising prices?": 1,
    "How does a loaf become fluffy in baking?": 2,
    "What did astronomers observe in the night sky?": 3,
}
