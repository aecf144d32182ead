from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="is_task",
            field=models.BooleanField(default=False, help_text="of django-tasks, not of a `work` module"),
        ),
        migrations.AddField(
            model_name="job",
            name="memory_bytes",
            field=models.PositiveBigIntegerField(default=0, help_text="resident; 0: the home's `job_memory_bytes`"),
        ),
        migrations.AddField(
            model_name="job",
            name="peak_bytes",
            field=models.PositiveBigIntegerField(default=0, help_text="the most that was seen of its processes"),
        ),
    ]
